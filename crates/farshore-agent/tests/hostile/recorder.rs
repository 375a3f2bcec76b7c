//! The only program that releases of these tests hold: it says what it is and waits. Compiled by the tests, with the standard library alone.
//!
//! One line for each start, in one write: SHA-256 of the program itself, its process id, its arguments.

use std::io::Write;

fn sha256(message: &[u8]) -> String {
    let (mut primes, mut candidate) = (Vec::new(), 2_u64);
    while primes.len() < 64 {
        if primes.iter().all(|prime| candidate % prime != 0) {
            primes.push(candidate);
        }
        candidate += 1;
    }
    // The first 32 bits of the fractional part of a root, in integers.
    let fraction = |prime: u64, power: u32| {
        let wanted = u128::from(prime) << (32 * power);
        let (mut low, mut high) = (0_u128, 1_u128 << 40);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if middle.pow(power) <= wanted { low = middle } else { high = middle }
        }
        low as u32
    };
    let constants: Vec<u32> = primes.iter().map(|prime| fraction(*prime, 3)).collect();
    let mut hash: Vec<u32> = primes.iter().take(8).map(|prime| fraction(*prime, 2)).collect();
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks(64) {
        let mut words: Vec<u32> =
            block.chunks(4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]])).collect();
        for at in 16..64 {
            let (a, b) = (words[at - 15], words[at - 2]);
            let a = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let b = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            words.push(words[at - 16].wrapping_add(a).wrapping_add(words[at - 7]).wrapping_add(b));
        }
        let mut now = hash.clone();
        for at in 0..64 {
            let (a, e) = (now[0], now[4]);
            let first = (e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
                .wrapping_add((e & now[5]) ^ (!e & now[6]))
                .wrapping_add(now[7])
                .wrapping_add(constants[at])
                .wrapping_add(words[at]);
            let second = (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22))
                .wrapping_add((a & now[1]) ^ (a & now[2]) ^ (now[1] & now[2]));
            now.rotate_right(1);
            now[4] = now[4].wrapping_add(first);
            now[0] = first.wrapping_add(second);
        }
        for (sum, word) in hash.iter_mut().zip(now) {
            *sum = sum.wrapping_add(word);
        }
    }
    hash.iter().map(|word| format!("{word:08x}")).collect()
}

/// Knocks where nobody opens: what it sends is lost, and sent again after a second. Then it fails.
fn lose(address: &str) -> ! {
    let address = address.parse().expect("an address");
    let wait = std::time::Duration::from_millis(2_500);
    let knock = move || drop(std::net::TcpStream::connect_timeout(&address, wait));
    let knocks: Vec<_> = (0..24).map(|_| std::thread::spawn(knock)).collect();
    for knock in knocks {
        knock.join().expect("a knock");
    }
    std::process::exit(3)
}

fn main() {
    let own = std::fs::read("/proc/self/exe").expect("reading this program");
    // An app's home is `<folder>/apps/<app>/data`; the record lies in `<folder>`.
    let home = std::env::var("HOME").expect("HOME");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let line = format!("sha256:{} {} {}\n", sha256(&own), std::process::id(), arguments.join(" "));
    let mut record = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(format!("{home}/../../../record"))
        .expect("opening the record");
    record.write_all(line.as_bytes()).expect("recording");
    if arguments.first().is_some_and(|first| first != "check") {
        println!("started with {}", arguments.join(" "));
    }
    match arguments.first().map(String::as_str) {
        Some("check") => {}
        Some("crash") => std::process::exit(3),
        Some("lose") => lose(&arguments[1]),
        _ => loop {
            std::thread::park();
        },
    }
}
