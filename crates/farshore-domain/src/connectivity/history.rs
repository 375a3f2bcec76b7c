//! The stretches of a device's past in which it was online or not, made of the transitions that it told of.

use super::Connectivity;
use crate::time::UnixMs;

/// A transition as the control plane has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When the new state began.
    pub at: UnixMs,
    pub from: Connectivity,
    pub to: Connectivity,
    /// How long the state before lasted.
    pub lasted_ms: i64,
    pub message: String,
}

/// A stretch of time in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: UnixMs,
    pub to: UnixMs,
    pub state: Connectivity,
    /// What was in the way, in words; empty where nothing was.
    pub message: String,
}

/// What the stretches come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub online_ms: i64,
    /// The time that is known about.
    pub known_ms: i64,
    /// How often it was not online.
    pub outages: u32,
}

/// The stretches within `from..to`, oldest first, without overlaps. `silent_since`: the control plane hears nothing since then; the device will say why
/// when it is back.
#[must_use]
pub fn spans(mut told: Vec<Told>, from: UnixMs, to: UnixMs, silent_since: Option<UnixMs>) -> Vec<Span> {
    told.sort_by_key(|told| told.at);
    let mut spans: Vec<Span> = Vec::with_capacity(2 * told.len() + 2);
    for told in told {
        // What it was before, as far back as the device says; where something that it told is missing, nobody knows more.
        let began = told.at.plus_ms(-told.lasted_ms.max(0));
        match spans.last_mut() {
            Some(last) if last.state == told.from => last.to = told.at,
            last => {
                let began = last.as_ref().map_or(began, |last| began.max(last.from));
                if let Some(last) = last {
                    last.to = began;
                }
                spans.push(Span { from: began, to: told.at, state: told.from, message: String::new() });
            }
        }
        spans.push(Span { from: told.at, to, state: told.to, message: told.message });
    }
    if let Some(since) = silent_since {
        for span in &mut spans {
            span.to = span.to.min(since);
        }
        spans.push(Span { from: since, to, state: Connectivity::Silent, message: String::new() });
    }
    let mut clipped: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        let span = Span { from: span.from.max(from), to: span.to.min(to), ..span };
        match clipped.last_mut() {
            _ if span.from >= span.to => {}
            Some(last) if last.state == span.state && last.to >= span.from => {
                last.to = last.to.max(span.to);
                if last.message.is_empty() {
                    last.message = span.message;
                }
            }
            _ => clipped.push(span),
        }
    }
    clipped
}

/// Adds them up.
#[must_use]
pub fn sum(spans: &[Span]) -> Sum {
    let mut sum = Sum::default();
    let mut away = false;
    for span in spans.iter().filter(|span| span.state != Connectivity::Unknown) {
        let length = span.to.since_ms(span.from);
        sum.known_ms += length;
        let online = span.state == Connectivity::Online;
        if online {
            sum.online_ms += length;
        }
        sum.outages += u32::from(!online && !away);
        away = !online;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use Connectivity::{ControlPlane, Dns, Online, Silent};

    fn told(at: i64, from: Connectivity, to: Connectivity, lasted_ms: i64) -> Told {
        Told { at: UnixMs(at), from, to, lasted_ms, message: String::new() }
    }

    fn short(spans: &[Span]) -> Vec<(i64, i64, Connectivity)> {
        spans.iter().map(|span| (span.from.0, span.to.0, span.state)).collect()
    }

    #[test]
    fn transitions_become_stretches_whatever_their_order() {
        let all = vec![
            told(700, Dns, Online, 100),
            told(500, Online, ControlPlane, 400),
            told(600, ControlPlane, Dns, 100),
        ];
        let spans = spans(all, UnixMs(200), UnixMs(1_000), None);
        let wanted = [(200, 500, Online), (500, 600, ControlPlane), (600, 700, Dns), (700, 1_000, Online)];
        assert_eq!(short(&spans), wanted);
        // Two causes, one after the other, are one outage.
        assert_eq!(sum(&spans), Sum { online_ms: 600, known_ms: 800, outages: 1 });
    }

    #[test]
    fn where_a_transition_is_missing_the_next_one_says_how_far_back_it_knows() {
        let all = vec![told(100, ControlPlane, Online, 50), told(900, Dns, Online, 300)];
        let got = spans(all, UnixMs(0), UnixMs(1_000), None);
        assert_eq!(
            short(&got),
            [(50, 100, ControlPlane), (100, 600, Online), (600, 900, Dns), (900, 1_000, Online)]
        );
    }

    #[test]
    fn a_device_that_is_not_heard_is_silent_until_it_says_more() {
        let online = vec![told(100, ControlPlane, Online, 50)];
        let got = spans(online, UnixMs(0), UnixMs(1_000), Some(UnixMs(400)));
        assert_eq!(short(&got), [(50, 100, ControlPlane), (100, 400, Online), (400, 1_000, Silent)]);
        assert_eq!(sum(&got), Sum { online_ms: 300, known_ms: 950, outages: 2 });
        assert_eq!(short(&spans(Vec::new(), UnixMs(0), UnixMs(9), Some(UnixMs(3)))), [(3, 9, Silent)]);
        assert_eq!(spans(Vec::new(), UnixMs(0), UnixMs(9), None), []);
        assert_eq!(sum(&[]), Sum::default());
    }

    #[test]
    fn nothing_lies_outside_and_nothing_overlaps_even_where_clocks_were_wrong() {
        let all = vec![
            told(-500, Online, Dns, -7),
            told(50, Dns, Online, i64::MAX),
            told(5_000, Online, ControlPlane, 1),
            told(50, Online, Dns, 0),
        ];
        let got = spans(all, UnixMs(0), UnixMs(100), Some(UnixMs(90)));
        assert!(got.iter().all(|span| span.from >= UnixMs(0) && span.to <= UnixMs(100)));
        assert!(got.windows(2).all(|two| two[0].to <= two[1].from), "{got:?}");
        assert_eq!(got.last().map(|span| span.state), Some(Silent));
    }
}
