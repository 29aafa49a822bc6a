//! Hosts for tests: network namespaces with no way out.
