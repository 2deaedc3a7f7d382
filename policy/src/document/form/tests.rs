//! Single values: what is read, and what is refused.

use super::*;

fn code<T: std::fmt::Debug>(result: Result<T, Flaw>) -> Code {
    result.expect_err("a flaw").code
}

#[test]
fn durations_have_units() {
    assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
    assert_eq!(duration("5min"), Ok(Duration::from_secs(300)));
    assert_eq!(duration("366d"), Ok(Duration::from_secs(366 * 86_400)));
    assert_eq!(some_time("0s").expect_err("zero").code, Code::BadDuration);
    for bad in ["", "5", "s", "5 s", "-1s", "1.5s", "367d", "99999999999999999999s", "å"] {
        assert_eq!(code(duration(bad)), Code::BadDuration, "{bad}");
    }
    let minutes = duration("5m").expect_err("ambiguous");
    assert_eq!(minutes.hint.as_deref(), Some("did you mean `5min`?"));
}

#[test]
fn times_are_real_dates() {
    assert_eq!(time("1970-01-01T00:00:00Z"), Ok(0));
    assert_eq!(time("2026-12-20T00:00:00Z"), Ok(1_797_724_800));
    assert_eq!(time("2024-02-29T12:00:00.25+01:30"), Ok(1_709_202_600));
    for bad in [
        "2026-02-29T00:00:00Z",
        "2026-12-20",
        "2026-12-20T00:00:00",
        "2026-12-20T24:00:00Z",
        "2026-12-20T00:00:00.Z",
        "2026-13-20T00:00:00Z",
        "2026-12-20T00:00:00+1:00",
        "2026-12-20T00:00:00Zä",
    ] {
        assert_eq!(code(time(bad)), Code::BadTime, "{bad}");
    }
}

#[test]
fn capacities_rates_and_urls() {
    assert_eq!(capacity("10G"), Ok(10_000_000_000));
    assert_eq!(code(capacity("10g")), Code::BadCapacity);
    assert_eq!(code(capacity("99999999T")), Code::BadCapacity);
    assert_eq!(rate("20000/s"), Ok(20_000));
    assert_eq!(code(rate("20000")), Code::BadRate);
    for good in ["tls://a.example:4222", "nats://10.0.0.1", "nats://[fd00::1]:4222", "tls://[::1]"]
    {
        assert!(url(good).is_ok(), "{good}");
    }
    for bad in
        ["http://a", "tls://", "tls://a:0", "tls://a:b", "nats://u:p@a", "tls://[x]:1", "tls://a:"]
    {
        assert_eq!(code(url(bad)), Code::BadUrl, "{bad}");
    }
}

#[test]
fn an_nkey_is_checked_to_its_last_bit() {
    let key = "UCZSSJQMFI6IB3NVNAM2IK7QO7BUTJOTPBECCFSA2U5XK25MWYOMIRL7";
    assert_eq!(nkey(key), Ok(key.to_owned()));
    let typo = key.replacen("IK7", "AK7", 1);
    assert!(nkey(&typo).expect_err("typo").message.contains("checksum"));
    assert_eq!(code(nkey(&key[..55])), Code::BadNkey);
    assert_eq!(code(nkey(&key.to_lowercase())), Code::BadNkey);
    assert_eq!(code(nkey("")), Code::BadNkey);
    let seed = nkey("SUABO2X7XQMIH3MCBAXYER4GOZ5PN7D2NW3TMJFK3QHMDCBGMXYVI5INRE");
    let seed = seed.expect_err("a seed is no public key");
    assert!(!seed.message.contains("SUABO2X7"), "the seed is not repeated");
}

#[test]
fn domains_end_in_a_dot() {
    assert!(domain("steer.example.").is_ok());
    for bad in ["steer.example", "Steer.example.", "a..b.", ".", "-a.", "a@b."] {
        assert_eq!(code(domain(bad)), Code::BadDomain, "{bad}");
    }
    let mail = domain("dns@example").expect_err("mail");
    assert_eq!(mail.hint.as_deref(), Some("write `dns.example.`"));
}
