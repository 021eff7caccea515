use std::process::{Command, Stdio};

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| Network::parse(text).unwrap()).collect()
}

fn guide() -> Proxy {
    let login = Login::new("me", "hunter2-hunter2").unwrap();
    Proxy::new(8899, Some(login), networks(&["203.0.113.0/24", "2001:db8::/32"]), vec![443, 563]).unwrap()
}

#[test]
fn the_whole_script() {
    insta::assert_snapshot!(user_data(&guide()));
}

#[test]
fn only_allowed_networks_and_no_login() {
    let proxy = Proxy::new(3128, None, networks(&["192.0.2.7"]), vec![]).unwrap();
    insta::assert_snapshot!(tinyproxy_conf(&proxy, Seat::At("127.0.0.9".parse().unwrap())), @r#"
    Listen 127.0.0.9
    Port 3128
    Timeout 600
    MaxClients 500
    LogLevel Warning
    DisableViaHeader Yes
    StatHost "tinyproxy.stats"
    Allow 192.0.2.7/32
    ConnectPort 0
    "#);
    let open_to_all = Proxy::new(3128, Login::new("me", "hunter2-hunter2").ok(), vec![], vec![443]).unwrap();
    assert!(nftables_conf(&open_to_all).contains("\n    tcp dport 3128 accept\n"));
    assert!(!tinyproxy_conf(&open_to_all, Seat::Own).contains("Allow"));
}

#[rstest]
#[case("192.0.2.0/24", Some("192.0.2.0/24"))]
#[case("192.0.2.77/24", Some("192.0.2.0/24"))]
#[case("192.0.2.7", Some("192.0.2.7/32"))]
#[case("10.1.2.3/0", Some("0.0.0.0/0"))]
#[case("2001:DB8::1/32", Some("2001:db8::/32"))]
#[case("::1", Some("::1/128"))]
#[case("::1/0", Some("::/0"))]
#[case("192.0.2.0/33", None)]
#[case("192.0.2.0/+8", None)]
#[case("192.0.2.0/", None)]
#[case("192.0.2/24", None)]
#[case("192.0.2.0/24\nAllow 0.0.0.0/0", None)]
#[case("fe80::1%eth0", None)]
#[case("example.com", None)]
fn networks_are_read_or_refused(#[case] text: &str, #[case] expected: Option<&str>) {
    assert_eq!(Network::parse(text).ok().map(|network| network.to_string()).as_deref(), expected);
}

#[rstest]
#[case("", "hunter2-hunter2", Refused::Word("user"))]
#[case("me", "", Refused::ShortPassword)]
#[case("me", "hunter2", Refused::ShortPassword)]
#[case("me", "hunter2 hunter2", Refused::Word("password"))]
#[case("me:you", "hunter2-hunter2", Refused::Word("user"))]
#[case("me", "$(reboot)$(reboot)", Refused::Word("password"))]
#[case("me", "pässword-pässword", Refused::Word("password"))]
fn logins_that_cannot_be_are_refused(#[case] user: &str, #[case] password: &str, #[case] refused: Refused) {
    let error = Login::new(user, password).unwrap_err();
    assert_eq!(error, refused);
    assert!(password.is_empty() || !error.to_string().contains(password));
}

#[test]
fn an_open_proxy_is_refused() {
    for allow in [&[][..], &["0.0.0.0/0"], &["192.0.2.0/24", "::/0"]] {
        assert_eq!(Proxy::new(8899, None, networks(allow), vec![443]).unwrap_err(), Refused::Open);
    }
    assert!(Proxy::new(8899, None, networks(&["192.0.2.0/24"]), vec![443]).is_ok());
    for ports in [vec![0], vec![443, 53]] {
        assert!(matches!(Proxy::new(8899, None, networks(&["192.0.2.0/24"]), ports), Err(Refused::Port(_))));
    }
    assert_eq!(Proxy::new(0, None, networks(&["192.0.2.0/24"]), vec![]).unwrap_err(), Refused::Port(0));
}

#[test]
fn a_login_is_never_printed() {
    let shown = format!("{:?}", guide());
    assert!(!shown.contains("hunter2") && shown.contains("8899"), "{shown}");
}

/// What `sh` takes the script for, without running it.
fn is_shell(script: &str) -> bool {
    let mut sh = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut sh.stdin.take().unwrap(), script.as_bytes()).unwrap();
    sh.wait().unwrap().success()
}

#[test]
fn the_script_is_one() {
    assert!(is_shell(&user_data(&guide())));
    assert!(is_shell(&pod_script(&guide())));
    assert!(pod_script(&guide()).contains("\nListen 0.0.0.0\nPort 8899\n"));
    assert!(!is_shell("if true; then"), "the check itself works");
    assert!(user_data(&guide()).len() < 16 << 10, "the strictest cloud takes 16 KB");
}

proptest! {
    /// Whatever is put in is refused or stands in its own place: the script is, but for those places, always the same.
    #[test]
    fn nothing_breaks_out(
        user in "\\PC{0,20}|[a-z'\"$`\\\\;\n ]{1,10}|[A-Za-z0-9._-]{1,20}",
        password in "\\PC{8,30}|[a-z'\"$`\\\\;\n ]{8,20}|[A-Za-z0-9._-]{8,30}|AETHER_END",
        network in "[0-9]{1,3}(\\.[0-9]{1,3}){3}(/[0-9]{1,2})?|[0-9a-f:]{2,20}/[0-9]{1,3}|\\PC{0,20}",
        port in 1_u16..,
        connect in 1_u16..,
    ) {
        let made = Login::new(&user, &password).and_then(|login| {
            Proxy::new(port, Some(login), vec![Network::parse(&network)?], vec![connect])
        });
        if let Ok(proxy) = made {
            let line = regex::Regex::new(
                "^(User tinyproxy|Group tinyproxy|Port [0-9]+|Timeout 600|MaxClients 500|LogLevel Warning|DisableViaHeader Yes\
                |StatHost \"tinyproxy.stats\"|Allow [0-9a-f:.]+/[0-9]+|BasicAuth [-A-Za-z0-9._]+ [-A-Za-z0-9._]+|ConnectPort [0-9]+)$",
            ).unwrap();
            let conf = tinyproxy_conf(&proxy, Seat::Own);
            prop_assert!(conf.split_terminator('\n').all(|l| line.is_match(l)), "{}", conf);
            prop_assert_eq!(conf.lines().count(), 11);
            let login = format!("BasicAuth {user} {password}\n");
            let plain = Login::new("me", "hunter2-hunter2").unwrap();
            let other = Proxy { login: Some(plain), ..proxy.clone() };
            prop_assert_eq!(user_data(&proxy).replacen(&login, "BasicAuth me hunter2-hunter2\n", 1), user_data(&other));
            let rule = regex::Regex::new("(?m)^    ip6? saddr [0-9a-f:.]+/[0-9]+ tcp dport [0-9]+ accept$").unwrap();
            prop_assert_eq!(rule.find_iter(&nftables_conf(&proxy)).count(), 1);
        }
    }
}
