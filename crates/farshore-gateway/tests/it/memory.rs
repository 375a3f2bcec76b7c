//! How much memory foreign bytes may cost. Each of these tests wants a process of its own, as nextest gives it.

use farshore_gateway::decode::otlp;

/// Most bytes that this process held since [`forget_peak`].
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<usize>().ok()).expect("a number") * 1024
}

/// From now on the peak is that of what comes. Says what is held now.
fn forget_peak() -> usize {
    std::fs::write("/proc/self/clear_refs", "5").expect("this process");
    peak()
}

const MB: usize = 1024 * 1024;

#[test]
fn an_array_of_many_small_elements_costs_no_memory() {
    let of = |element: &str, bytes: usize| {
        let elements = vec![element; bytes / (element.len() + 1)].join(",");
        format!("{{\"resourceMetrics\":[{elements}]}}").into_bytes()
    };
    // Numbers where messages belong are no request; empty messages are one.
    let (numbers, messages) = (of("1", 4 * MB), of("{}", 4 * MB));
    let points = |body: &[u8]| otlp::decode_json(body, &mut |_| Ok(()));
    let before = forget_peak();
    assert!(points(&numbers).is_err());
    assert_eq!(points(&messages).expect("readable").accepted, 0);
    let grown = peak() - before;
    assert!(grown < 4 * MB, "{} KB", grown / 1024);
}
