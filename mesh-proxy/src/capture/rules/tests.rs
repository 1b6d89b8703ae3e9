//! The rules as values and as text: each setting against the same without it.

use super::*;

fn of(hook: Hook, settings: &Settings) -> Vec<String> {
    let rules: Vec<Rule> = rules(settings).into_iter().filter(|r| r.hook == hook).collect();
    let text = nft::table(&rules);
    // Without the frame: what stands in a chain, but for its first two lines.
    let inside = text.lines().filter_map(|l| l.strip_prefix("\t\t"));
    inside
        .filter(|l| !l.starts_with("type ") && !l.starts_with("meta l4proto != "))
        .map(str::to_owned)
        .collect()
}

fn annotated(annotations: &[(&str, &str)]) -> Settings {
    let pair =
        |(name, value): &(&str, &str)| (format!("traffic.sidecar.istio.io/{name}"), (*value).to_owned());
    Settings::of_annotations(&annotations.iter().map(pair).collect()).unwrap()
}

#[test]
fn everything_is_captured_by_default() {
    let settings = Settings::default();
    assert_eq!(
        of(Hook::NatIn, &settings),
        [
            "tcp dport 15090 accept",
            "tcp dport 15021 accept",
            "tcp dport 15020 accept",
            "meta l4proto tcp redirect to :15006",
        ]
    );
    assert_eq!(
        of(Hook::NatOut, &settings),
        [
            "oifname \"lo\" ip saddr 127.0.0.6 accept",
            "oifname \"lo\" ip6 saddr ::6 accept",
            "oifname \"lo\" ip daddr != 127.0.0.1 meta skuid 1337 meta l4proto tcp redirect to :15006",
            "oifname \"lo\" ip6 daddr != ::1 meta skuid 1337 meta l4proto tcp redirect to :15006",
            "oifname \"lo\" meta skuid != 1337 accept",
            "meta skuid 1337 accept",
            "oifname \"lo\" ip daddr != 127.0.0.1 meta skgid 1337 meta l4proto tcp redirect to :15006",
            "oifname \"lo\" ip6 daddr != ::1 meta skgid 1337 meta l4proto tcp redirect to :15006",
            "oifname \"lo\" meta skgid != 1337 accept",
            "meta skgid 1337 accept",
            "ip daddr 127.0.0.1/32 accept",
            "ip6 daddr ::1/128 accept",
            "meta l4proto tcp redirect to :15001",
        ]
    );
    assert!(of(Hook::MangleIn, &settings).is_empty() && of(Hook::MangleOut, &settings).is_empty());
}

#[test]
fn each_annotation_changes_what_it_says() {
    let default = of(Hook::NatOut, &Settings::default());
    let added = |annotations: &[(&str, &str)], hook| {
        let base = of(hook, &Settings::default());
        let lines = of(hook, &annotated(annotations));
        lines.into_iter().filter(|l| !base.contains(l)).collect::<Vec<_>>()
    };
    assert_eq!(
        added(&[("excludeOutboundPorts", "3306, 5432")], Hook::NatOut),
        ["tcp dport 3306 accept", "tcp dport 5432 accept"]
    );
    let ranges = [("excludeOutboundIPRanges", "10.1.2.3/8,fd00::1")];
    assert_eq!(added(&ranges, Hook::NatOut), ["ip daddr 10.0.0.0/8 accept", "ip6 daddr fd00::1/128 accept"]);
    assert_eq!(added(&[("excludeInboundPorts", "22")], Hook::NatIn), ["tcp dport 22 accept"]);
    assert_eq!(added(&[("excludeInterfaces", "eth1")], Hook::NatIn), ["iifname \"eth1\" accept"]);
    assert_eq!(added(&[("excludeInterfaces", "eth1")], Hook::NatOut), ["oifname \"eth1\" accept"]);
    let only = annotated(&[("includeInboundPorts", "80,90")]);
    assert_eq!(
        of(Hook::NatIn, &only),
        [
            "tcp dport 80 meta l4proto tcp redirect to :15006",
            "tcp dport 90 meta l4proto tcp redirect to :15006"
        ]
    );
    let some = of(Hook::NatOut, &annotated(&[("includeOutboundIPRanges", "10.0.0.0/8")]));
    assert_eq!(some.last().unwrap(), "ip daddr 10.0.0.0/8 meta l4proto tcp redirect to :15001");
    assert_eq!(some.len(), default.len());
    let ports =
        of(Hook::NatOut, &annotated(&[("includeOutboundIPRanges", ""), ("includeOutboundPorts", "443")]));
    assert_eq!(ports.last().unwrap(), "tcp dport 443 meta l4proto tcp redirect to :15001");
    let nothing = annotated(&[("includeInboundPorts", "")]);
    assert!(of(Hook::NatIn, &nothing).is_empty());
    assert!(!of(Hook::NatOut, &nothing).iter().any(|l| l.contains("15006")));
}

#[test]
fn virtual_machines_send_what_comes_in() {
    let settings = annotated(&[("kubevirtInterfaces", "k6t0"), ("excludeOutboundIPRanges", "10.9.0.0/16")]);
    assert_eq!(
        of(Hook::NatIn, &settings)[..3],
        [
            "iifname \"k6t0\" ip daddr 10.9.0.0/16 accept",
            "iifname \"k6t0\" meta l4proto tcp redirect to :15001",
            "iifname \"k6t0\" accept",
        ]
    );
}

#[test]
fn tproxy_keeps_the_address_and_brings_answers_back() {
    let settings = Settings { mode: Interception::Tproxy, ..Settings::default() };
    assert!(of(Hook::NatIn, &settings).is_empty());
    let lines = of(Hook::MangleIn, &settings);
    let first = [
        "iifname \"lo\" meta mark 1337 ct mark set meta mark",
        "iifname \"lo\" accept",
        "ct state established,related accept",
    ];
    assert_eq!(lines[..3], first);
    assert_eq!(lines[lines.len() - 2..], ["meta l4proto tcp tproxy to :15006 accept", "drop"]);
    assert_eq!(of(Hook::MangleOut, &settings), ["ct mark 1337 meta mark set ct mark"]);
    assert!(of(Hook::NatOut, &settings).contains(&"oifname \"lo\" meta mark 1337 accept".to_owned()));
}

#[test]
fn iptables_says_the_same_one_family_at_a_time_and_jumps_once() {
    let settings =
        annotated(&[("excludeOutboundIPRanges", "10.0.0.0/8,fd00::/8"), ("excludeOutboundPorts", "22")]);
    let rules = rules(&settings);
    let v4 = iptables::restore(&rules, false, "");
    let expected = "*nat\n\
        :MESH_INBOUND - [0:0]\n\
        -A MESH_INBOUND -p tcp --dport 15090 -j RETURN\n\
        -A MESH_INBOUND -p tcp --dport 15021 -j RETURN\n\
        -A MESH_INBOUND -p tcp --dport 15020 -j RETURN\n\
        -A MESH_INBOUND -p tcp -j REDIRECT --to-ports 15006\n\
        -A PREROUTING -p tcp -j MESH_INBOUND\n\
        :MESH_OUTBOUND - [0:0]\n\
        -A MESH_OUTBOUND -p tcp --dport 22 -j RETURN\n\
        -A MESH_OUTBOUND -o lo -s 127.0.0.6 -j RETURN\n\
        -A MESH_OUTBOUND -o lo ! -d 127.0.0.1 -m owner --uid-owner 1337 -p tcp -j REDIRECT --to-ports 15006\n\
        -A MESH_OUTBOUND -o lo -m owner ! --uid-owner 1337 -j RETURN\n\
        -A MESH_OUTBOUND -m owner --uid-owner 1337 -j RETURN\n\
        -A MESH_OUTBOUND -o lo ! -d 127.0.0.1 -m owner --gid-owner 1337 -p tcp -j REDIRECT --to-ports 15006\n\
        -A MESH_OUTBOUND -o lo -m owner ! --gid-owner 1337 -j RETURN\n\
        -A MESH_OUTBOUND -m owner --gid-owner 1337 -j RETURN\n\
        -A MESH_OUTBOUND -d 127.0.0.1/32 -j RETURN\n\
        -A MESH_OUTBOUND -d 10.0.0.0/8 -j RETURN\n\
        -A MESH_OUTBOUND -p tcp -j REDIRECT --to-ports 15001\n\
        -A OUTPUT -p tcp -j MESH_OUTBOUND\n\
        COMMIT\n";
    assert_eq!(v4, expected);
    let v6 = iptables::restore(&rules, true, "");
    assert!(
        v6.contains("-d fd00::/8 -j RETURN") && !v6.contains("10.0.0.0") && v6.contains("-s ::6"),
        "{v6}"
    );
    // What is there already is not added again; its chains are emptied.
    let saved = "*nat\n:MESH_INBOUND - [0:0]\n-A PREROUTING -p tcp -j MESH_INBOUND\n-A OUTPUT -p tcp -j MESH_OUTBOUND\nCOMMIT\n";
    let again = iptables::restore(&rules, false, saved);
    assert!(!again.contains("-A PREROUTING") && !again.contains("-A OUTPUT"), "{again}");
    assert_eq!(
        iptables::clean_up(":MESH_INBOUND - [0:0]\n-A PREROUTING -p tcp -j MESH_INBOUND\n"),
        "*nat\n-D PREROUTING -p tcp -j MESH_INBOUND\n-F MESH_INBOUND\n-X MESH_INBOUND\nCOMMIT\n"
    );
    assert_eq!(iptables::clean_up("*nat\nCOMMIT\n"), "");
}

#[test]
fn what_is_no_setting_is_refused_by_name() {
    let refused = [
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "80,http", "\"http\" is no port"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "0", "\"0\" is no port"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "*,10.0.0.0/8", "\"*\" is no address range"),
        ("traffic.sidecar.istio.io/excludeInterfaces", "a\" accept", "is no name"),
        ("traffic.sidecar.istio.io/newThing", "x", "newThing"),
        ("sidecar.istio.io/interceptionMode", "NONE", "REDIRECT or TPROXY"),
    ];
    for (name, value, expected) in refused {
        let annotations = [(name.to_owned(), value.to_owned())].into();
        let error = Settings::of_annotations(&annotations).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} should say {expected}");
    }
}
