//! The addresses that a thread looks after, as it is told of them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// What is to be looked after from now on.
#[derive(Debug)]
pub(crate) enum News {
    All(BTreeSet<Ipv4Addr>),
    Changed { gone: Vec<Ipv4Addr>, come: Vec<Ipv4Addr> },
}

/// Takes in the news: an address that goes and comes at once stays.
pub(crate) fn learn(wanted: &mut BTreeSet<Ipv4Addr>, news: News) {
    match news {
        News::All(all) => *wanted = all,
        News::Changed { gone, come } => {
            for address in gone {
                wanted.remove(&address);
            }
            wanted.extend(come);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_comes_at_once_stays() {
        let [a, b, c] = [1, 2, 3].map(|last| Ipv4Addr::new(100, 64, 0, last));
        let mut wanted = BTreeSet::from([c]);
        learn(&mut wanted, News::All([a, b].into()));
        learn(&mut wanted, News::Changed { gone: vec![a, b], come: vec![b, c] });
        assert_eq!(wanted, [b, c].into());
    }
}
