//! What is shown is read again as what it was, and nothing that anybody writes makes reading panic.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn what_is_shown_means_the_same_when_it_is_read(millis in any::<u64>(), bytes in any::<u64>(), factor in 0..10_000u64) {
        // 584 years, which is more than any setting may be.
        for millis in [millis % 18_446_744_073_709, millis % 100_000_000, factor * 1_000, factor * 60_000, factor * 86_400_000] {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time), "{}", show_duration(time));
        }
        // As floating point has them exactly.
        for bytes in [bytes >> 12, factor, factor * 1_000, factor << 20, factor * 1_000_000_000] {
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes), "{}", show_size(bytes));
        }
    }

    #[test]
    fn a_host_is_read_again_as_it_is_shown(
        name in "[a-zA-Z][a-z0-9-]{0,10}[a-z0-9](\\.[a-z]{1,10}){0,3}", ip in any::<std::net::IpAddr>(), port in 1..=u16::MAX,
    ) {
        for host_name in [name.to_lowercase(), ip.to_string()] {
            let host = Host { name: host_name, port };
            prop_assert_eq!(super::host(&host.to_string(), 1), Ok(host));
        }
        prop_assert_eq!(host(&name, port), Ok(Host { name: name.to_lowercase(), port }));
    }

    #[test]
    fn no_text_makes_reading_panic(
        text in ".{0,30}", number in "[0-9.eE+-]{0,25}", unit in prop::sample::select(vec!["", "s", "ms", "y", "/s", "/h", "GB", "EiB", "KB", " d", ":25", "]:25"]),
    ) {
        for text in [text.as_str(), &format!("{number}{unit}"), &format!("[{text}{unit}")] {
            let _ = duration(text);
            let _ = size(text);
            let _ = rate(text);
            let _ = (domain(text), machine(text), domain_pattern(text));
            if let Ok(host) = host(text, 25) {
                prop_assert!(host.port != 0 && !host.name.contains(|c: char| c.is_control() || c == ' '));
            }
        }
    }

    #[test]
    fn a_rate_lets_through_what_it_says(count in 1..=MAX_RATE, unit in prop::sample::select(vec![("s", 1), ("m", 60), ("h", 3_600)])) {
        let quota = rate(&format!("{count}/{}", unit.0)).unwrap();
        prop_assert_eq!(quota.burst_size().get(), count);
        let whole = quota.replenish_interval() * count;
        let expected = Duration::from_secs(unit.1);
        prop_assert!(whole <= expected && expected - whole < Duration::from_millis(1), "{whole:?}");
    }
}
