use super::*;

const A: &str = "52:54:00:00:00:0a";
const B: &str = "52:54:00:00:00:0b";

fn mac(text: &str) -> Mac {
    Mac::parse(text.as_bytes()).unwrap()
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 122, last)
}

fn plugged(text: &str, network: &str) -> Interface {
    Interface { mac: Some(mac(text)), plug: Plug::Network(network.into()) }
}

fn domain(interfaces: Vec<Interface>) -> Domain {
    let named = DomainRef { name: b"web".to_vec(), uuid: uuid::Uuid::from_u128(1), id: 1 };
    let about = About {
        name: "web".into(),
        id: Some(1),
        interfaces,
        agent_connected: true,
        wishes: Ok(Wishes::default()),
    };
    Domain { named, state: InstanceState::Running, about, heard: Heard::default(), connects: 0 }
}

fn web() -> Domain {
    domain(vec![plugged(A, "default")])
}

fn around() -> Surroundings {
    let kind = NetworkKind::Managed {
        bridge: "virbr0".into(),
        own: vec![ip(1)],
        subnets: vec!["192.168.122.0/24".parse().unwrap()],
        routed: false,
    };
    let network = Network { name: "default".into(), kind, has_dhcp: true };
    Surroundings { networks: [("default".into(), network)].into(), ..Surroundings::default() }
}

fn said(text: &str, address: Ipv4Addr) -> Addressed {
    Addressed { mac: mac(text), address }
}

fn report(one: &Domain, around: &Surroundings, others: &[&Domain]) -> InstanceReport {
    let all = std::iter::once(one).chain(others.iter().copied());
    one.report(around, &Census::take(all, &around.leases, &Neighbours::default()))
}

fn known(one: &Domain, around: &Surroundings) -> Option<(Ipv4Addr, AddressSource)> {
    let report = report(one, around, &[]);
    report.private_ip.zip(report.address_source)
}

#[test]
fn the_agent_is_asked_first_then_the_lease_then_the_neighbours_then_the_metadata() {
    let (mut web, mut around) = (web(), around());
    web.heard.agent = vec![said(A, ip(10))];
    around.leases.in_force = [(mac(A), ip(11))].into();
    web.heard.guesses = [(mac(A), ip(12))].into();
    web.about.wishes = Ok(Wishes { address: Some(ip(13)), ..Wishes::default() });
    assert_eq!(known(&web, &around), Some((ip(10), AddressSource::Agent)));
    web.heard.agent.clear();
    assert_eq!(known(&web, &around), Some((ip(11), AddressSource::Lease)));
    around.leases.in_force.clear();
    assert_eq!(known(&web, &around), Some((ip(12), AddressSource::Neighbour)));
    web.heard.guesses.clear();
    assert_eq!(known(&web, &around), Some((ip(13), AddressSource::Metadata)));
    web.about.wishes = Ok(Wishes::default());
    assert_eq!(known(&web, &around), None);
    assert_eq!(report(&web, &around, &[]).unusable, Some(Unusable::NoAddress));
}

#[test]
fn an_agent_that_has_gone_or_is_contradicted_counts_only_when_nobody_else_knows() {
    let (mut web, mut around) = (web(), around());
    web.heard.agent = vec![said(A, ip(10))];
    web.about.agent_connected = false;
    assert_eq!(known(&web, &around), Some((ip(10), AddressSource::Agent)));
    web.heard.guesses = [(mac(A), ip(12))].into();
    assert_eq!(known(&web, &around), Some((ip(12), AddressSource::Neighbour)));
    web.about.agent_connected = true;
    assert_eq!(known(&web, &around), Some((ip(10), AddressSource::Agent)));
    around.leases.in_force = [(mac(A), ip(11))].into();
    assert!(web.doubt_agent(&around.leases.in_force));
    assert_eq!(known(&web, &around), Some((ip(11), AddressSource::Lease)));
    // A lease that says the same is no reason for doubt.
    web.heard = Heard { agent: vec![said(A, ip(11))], ..Heard::default() };
    assert!(!web.doubt_agent(&around.leases.in_force));
    assert_eq!(known(&web, &around), Some((ip(11), AddressSource::Agent)));
}

#[test]
fn what_a_guest_says_of_itself_is_believed_within_its_network_only() {
    let (mut web, mut around) = (web(), around());
    let nonsense = [
        Ipv4Addr::new(127, 0, 0, 1),
        Ipv4Addr::new(169, 254, 7, 7),
        Ipv4Addr::new(100, 64, 0, 9),
        Ipv4Addr::UNSPECIFIED,
        ip(1),
    ];
    web.heard.agent = nonsense.map(|address| said(A, address)).to_vec();
    assert_eq!(known(&web, &around), None);
    web.heard.agent.push(said(B, ip(9)));
    assert_eq!(known(&web, &around), None, "another interface's, such as one of its containers");
    web.heard.agent.push(said(A, ip(10)));
    assert_eq!(known(&web, &around), Some((ip(10), AddressSource::Agent)));
    // What DHCP gave to one is not another's, whatever that one says.
    let mut other = domain(vec![plugged(B, "default")]);
    other.heard.agent = vec![said(B, ip(11))];
    other.heard.guesses = [(mac(B), ip(11))].into();
    around.leases.in_force = [(mac(A), ip(11))].into();
    assert_eq!(report(&other, &around, &[&web]).private_ip, None);
    assert_eq!(report(&other, &around, &[]).private_ip, Some(ip(11)), "its holder is gone");
}

#[test]
fn an_address_by_metadata_is_believed_within_its_network_and_when_it_is_nobody_elses() {
    let (mut web, mut around) = (web(), around());
    let state = |domain: &mut Domain, address: Ipv4Addr| {
        domain.about.wishes = Ok(Wishes { address: Some(address), ..Wishes::default() });
    };
    let refused = (None, Some(Unusable::BadMetadata));
    let told = |one: &Domain, around: &Surroundings, others: &[&Domain]| {
        let report = report(one, around, others);
        (report.private_ip, report.unusable)
    };
    let nobodys = [
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(169, 254, 7, 7),
        Ipv4Addr::new(8, 8, 8, 8),
        ip(1),
    ];
    for address in nobodys {
        state(&mut web, address);
        assert_eq!(told(&web, &around, &[]), refused, "{address}");
    }
    state(&mut web, ip(13));
    assert_eq!(told(&web, &around, &[]), (Some(ip(13)), None));
    let mut other = domain(vec![plugged(B, "default")]);
    around.leases.in_force = [(mac(B), ip(13))].into();
    assert_eq!(told(&web, &around, &[&other]), refused, "DHCP gave it to another");
    around.leases.in_force.clear();
    state(&mut other, ip(13));
    assert_eq!(told(&web, &around, &[&other]), refused, "another states it too");
    assert_eq!(told(&other, &around, &[&web]), refused);
    other.state = InstanceState::Stopped;
    assert_eq!(told(&web, &around, &[&other]), (Some(ip(13)), None));
    web.about.interfaces[0].plug = Plug::Bridge("br0".into());
    let bridge = Bridge { subnets: vec!["192.168.122.1/24".parse().unwrap()], leads_out: false };
    around.bridges = [("br0".into(), bridge)].into();
    assert_eq!(told(&web, &around, &[]), (Some(ip(13)), None));
    state(&mut web, ip(1));
    assert_eq!(told(&web, &around, &[]), refused, "this host's own on its bridge");
}

#[test]
fn an_address_at_which_this_host_sees_another_guest_is_not_believed() {
    let (web, around) = (web(), around());
    let mut thief = domain(vec![plugged(B, "default")]);
    thief.heard.agent = vec![said(B, ip(10))];
    let seen = |mac: &str| Neighbours::of(&[(ip(10), Mac::parse(mac.as_bytes()).unwrap())]);
    let of_thief = |neighbours: &Neighbours| {
        thief.report(&around, &Census::take([&web, &thief].into_iter(), &around.leases, neighbours))
    };
    assert_eq!(of_thief(&seen(A)).private_ip, None);
    assert_eq!(of_thief(&seen(B)).private_ip, Some(ip(10)));
    assert_eq!(of_thief(&Neighbours::default()).private_ip, Some(ip(10)));
}

#[test]
fn two_with_one_hardware_address_are_told_apart_by_their_agents_alone() {
    let (mut one, two, mut around) = (web(), web(), around());
    around.leases.in_force = [(mac(A), ip(11))].into();
    for ambiguous in [&one, &two] {
        let report = report(ambiguous, &around, &[&one]);
        assert_eq!((report.unusable, report.target()), (Some(Unusable::AmbiguousMac), None));
    }
    one.heard.agent = vec![said(A, ip(11))];
    let report_of_one = report(&one, &around, &[&two]);
    assert_eq!(report_of_one.target(), Some(ip(11)));
    let mut stopped = two;
    stopped.state = InstanceState::Stopped;
    one.heard.agent.clear();
    assert_eq!(report(&one, &around, &[&stopped]).target(), Some(ip(11)));
}

#[test]
fn the_wished_network_counts_or_else_the_first_with_an_address() {
    let mut around = around();
    let tap = Interface { mac: Some(mac(B)), plug: Plug::Tap("tap7".into()) };
    let mut web = domain(vec![plugged(A, "default"), tap]);
    around.leases.in_force = [(mac(B), Ipv4Addr::new(10, 0, 0, 7))].into();
    let first = report(&web, &around, &[]);
    assert_eq!(
        (first.private_ip, first.vpc_id.as_deref()),
        (Some([10, 0, 0, 7].into()), Some("tap7"))
    );
    let wish = |network: &str| Ok(Wishes { network: Some(network.into()), ..Wishes::default() });
    web.about.wishes = wish("default");
    let none = report(&web, &around, &[]);
    assert_eq!((none.private_ip, none.vpc_id.as_deref()), (None, Some("default")));
    around.leases.in_force.insert(mac(A), ip(11));
    assert_eq!(report(&web, &around, &[]).private_ip, Some(ip(11)));
    web.about.wishes = wish("elsewhere");
    assert_eq!(report(&web, &around, &[]).unusable, Some(Unusable::BadMetadata));
}

#[test]
fn a_network_that_nothing_is_known_of_is_taken_at_its_word() {
    let (mut web, mut around) = (web(), around());
    web.heard.agent = vec![said(A, Ipv4Addr::new(10, 0, 0, 7))];
    around.networks.clear();
    assert_eq!(known(&web, &around), Some(([10, 0, 0, 7].into(), AddressSource::Agent)));
}

#[test]
fn of_another_host_only_what_is_routed_can_be_reached() {
    let (mut web, mut around) = (web(), around());
    around.leases.in_force = [(mac(A), ip(11))].into();
    around.elsewhere = true;
    let told = |web: &Domain, around: &Surroundings| {
        let report = report(web, around, &[]);
        (report.target(), report.unusable)
    };
    assert_eq!(told(&web, &around), (None, Some(Unusable::NotRouted)), "NAT");
    let network = around.networks.get_mut("default").unwrap();
    if let NetworkKind::Managed { routed, .. } = &mut network.kind {
        *routed = true;
    }
    assert_eq!(told(&web, &around), (Some(ip(11)), None), "routed");
    around.networks.clear();
    assert_eq!(told(&web, &around), (None, Some(Unusable::NotRouted)), "not known");
    web.about.interfaces[0].plug = Plug::Tap("tap7".into());
    assert_eq!(told(&web, &around), (None, Some(Unusable::NotRouted)), "a tap device");
    around.elsewhere = false;
    assert_eq!(told(&web, &around), (Some(ip(11)), None), "here");
}

#[test]
fn a_domain_that_is_stopped_has_no_address_and_is_told_what_will_be_in_its_way() {
    let (mut web, mut around) = (web(), around());
    around.leases.in_force = [(mac(A), ip(11))].into();
    web.state = InstanceState::Stopped;
    let stopped = report(&web, &around, &[]);
    assert_eq!((stopped.private_ip, stopped.unusable), (None, None));
    web.about.interfaces.clear();
    assert_eq!(report(&web, &around, &[]).unusable, Some(Unusable::NoInterface));
    web.about.interfaces = vec![Interface { mac: None, plug: Plug::User }];
    assert_eq!(report(&web, &around, &[]).unusable, Some(Unusable::UserNetwork));
}

#[test]
fn of_two_leases_the_one_that_ends_last_counts_or_else_the_new_one() {
    let lease = |last, expires| Lease { mac: mac(A), address: ip(last), expires };
    let mut book = LeaseBook::default();
    let mut in_force = |all: &[Lease]| {
        book.take(all);
        book.in_force.get(&mac(A)).copied()
    };
    assert_eq!(in_force(&[lease(5, 200), lease(6, 100)]), Some(ip(5)));
    assert_eq!(in_force(&[lease(5, 200), lease(6, 300)]), Some(ip(6)));
    assert_eq!(in_force(&[lease(5, 0), lease(6, 300)]), Some(ip(5)), "it has no end");
    assert_eq!(in_force(&[lease(9, 300)]), Some(ip(9)));
    for order in [[lease(9, 300), lease(3, 300)], [lease(3, 300), lease(9, 300)]] {
        assert_eq!(in_force(&order), Some(ip(3)), "the new one, and then the one in force");
    }
    assert_eq!(in_force(&[]), None);
}
