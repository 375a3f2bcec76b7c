//! Windows over event time or a count, and what is calculated of their values.
//!
//! Each series has a watermark of its own: the latest time it has told, less the allowed lateness. A window closes when the watermark has passed its
//! end, or when the series has been silent for longer than the window is. What belongs to a closed window is late: it is counted, and in no window.

use serde::{Deserialize, Serialize};

use super::definition::{Aggregate, Window, WindowKind};
use super::sketch::Sketch;

/// What is known of the values in a window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Gathered {
    count: u64,
    #[serde(with = "super::bits")]
    sum: f64,
    #[serde(with = "super::bits")]
    min: f64,
    #[serde(with = "super::bits")]
    max: f64,
    first_ns: i64,
    #[serde(with = "super::bits")]
    first: f64,
    last_ns: i64,
    #[serde(with = "super::bits")]
    last: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sketch: Option<Box<Sketch>>,
}

impl Gathered {
    fn new(at_ns: i64, value: f64, percentiles: bool) -> Self {
        let mut one = Self {
            count: 0,
            sum: 0.0,
            min: value,
            max: value,
            first_ns: at_ns,
            first: value,
            last_ns: at_ns,
            last: value,
            sketch: percentiles.then(Box::default),
        };
        one.add(at_ns, value);
        one
    }

    fn add(&mut self, at_ns: i64, value: f64) {
        self.count += 1;
        self.sum = (self.sum + value).clamp(f64::MIN, f64::MAX);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if at_ns < self.first_ns {
            (self.first_ns, self.first) = (at_ns, value);
        }
        if at_ns >= self.last_ns {
            (self.last_ns, self.last) = (at_ns, value);
        }
        if let Some(sketch) = &mut self.sketch {
            sketch.add(value);
        }
    }

    /// Nothing where it says nothing: a rate of one point.
    #[expect(clippy::cast_precision_loss, reason = "counts and seconds, to be looked at")]
    pub(super) fn says(&self, aggregate: Aggregate) -> Option<f64> {
        Some(match aggregate {
            Aggregate::Min => self.min,
            Aggregate::Max => self.max,
            Aggregate::Mean => self.sum / self.count as f64,
            Aggregate::Sum => self.sum,
            Aggregate::Count => self.count as f64,
            Aggregate::Rate => {
                let span = self.last_ns.saturating_sub(self.first_ns);
                if span <= 0 {
                    return None;
                }
                (self.last - self.first) / (span as f64 / 1e9)
            }
            Aggregate::Percentile(percent) => {
                self.sketch.as_ref()?.percentile(percent)?.clamp(self.min, self.max)
            }
        })
    }
}

/// The windows of one series.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Windows {
    /// By their beginnings, ascending.
    open: Vec<(i64, Gathered)>,
    /// The latest time the series has told.
    latest_ns: Option<i64>,
    /// Windows that end by then take nothing more.
    closed_ns: Option<i64>,
}

/// A window that has ended.
pub(super) type Closed = (i64, Gathered);

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    In,
    Late,
}

impl Windows {
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Puts a value into its windows and takes those out that have ended by it.
    pub(super) fn put(&mut self, window: &Window, at_ns: i64, value: f64, closed: &mut Vec<Closed>) -> Put {
        let percentiles = window.aggregates.iter().any(|a| matches!(a, Aggregate::Percentile(_)));
        let (size_ns, every_ns) = match window.kind {
            WindowKind::Count(count) => {
                match self.open.first_mut() {
                    Some((_, gathered)) => gathered.add(at_ns, value),
                    None => self.open.push((at_ns, Gathered::new(at_ns, value, percentiles))),
                }
                if self.open.first().is_some_and(|(_, gathered)| gathered.count >= u64::from(count)) {
                    closed.extend(self.open.drain(..).map(|(_, gathered)| (gathered.first_ns, gathered)));
                }
                return Put::In;
            }
            WindowKind::Time { size_ns, every_ns } => (size_ns, every_ns),
        };
        // The last window that holds it, and those before.
        let mut start = at_ns.saturating_sub(at_ns.rem_euclid(every_ns));
        let mut put = Put::Late;
        while start.saturating_add(size_ns) > at_ns {
            if self.closed_ns.is_some_and(|closed| start.saturating_add(size_ns) <= closed) {
                break;
            }
            put = Put::In;
            match self.open.binary_search_by_key(&start, |(start, _)| *start) {
                Ok(index) => {
                    if let Some((_, gathered)) = self.open.get_mut(index) {
                        gathered.add(at_ns, value);
                    }
                }
                Err(index) => self.open.insert(index, (start, Gathered::new(at_ns, value, percentiles))),
            }
            let Some(before) = start.checked_sub(every_ns) else { break };
            start = before;
        }
        if self.latest_ns.is_none_or(|latest| at_ns > latest) {
            self.latest_ns = Some(at_ns);
            self.close(at_ns.saturating_sub(window.lateness_ns), size_ns, closed);
        }
        put
    }

    fn close(&mut self, until_ns: i64, size_ns: i64, closed: &mut Vec<Closed>) {
        if self.closed_ns.is_none_or(|before| until_ns > before) {
            self.closed_ns = Some(until_ns);
        }
        let ended =
            self.open.iter().take_while(|(start, _)| start.saturating_add(size_ns) <= until_ns).count();
        closed.extend(self.open.drain(..ended));
    }

    /// The series is silent: all its windows end.
    pub(super) fn close_all(&mut self, window: &Window, closed: &mut Vec<Closed>) {
        if let WindowKind::Time { size_ns, .. } = window.kind
            && let Some((start, _)) = self.open.last()
        {
            self.close(start.saturating_add(size_ns), size_ns, closed);
        }
    }

    /// There is no room for so many: the oldest ends before its time.
    pub(super) fn close_oldest(&mut self, window: &Window, closed: &mut Vec<Closed>) {
        if let WindowKind::Time { size_ns, .. } = window.kind
            && let Some((start, _)) = self.open.first()
        {
            self.close(start.saturating_add(size_ns), size_ns, closed);
        }
    }
}

/// After so long without a point the windows of a series end; nothing for windows over a count.
pub(super) fn patience_ns(window: &Window) -> Option<i64> {
    match window.kind {
        WindowKind::Time { size_ns, .. } => {
            Some(size_ns.saturating_add(window.lateness_ns).max(1_000_000_000))
        }
        WindowKind::Count(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn window(size: i64, every: i64, lateness: i64) -> Window {
        Window {
            kind: WindowKind::Time { size_ns: size * S, every_ns: every * S },
            lateness_ns: lateness * S,
            aggregates: vec![Aggregate::Sum, Aggregate::Percentile(50.0)],
        }
    }

    fn sums(closed: &[Closed]) -> Vec<(i64, f64, f64)> {
        let of = |g: &Gathered, a| g.says(a).expect("a value");
        closed.iter().map(|(start, g)| (start / S, of(g, Aggregate::Sum), of(g, Aggregate::Count))).collect()
    }

    #[test]
    fn tumbling_windows_wait_for_what_is_late() {
        let window = window(10, 10, 5);
        let (mut windows, mut closed) = (Windows::default(), Vec::new());
        for (at, value) in [(1, 1.0), (9, 2.0), (11, 4.0), (14, 8.0), (8, 16.0)] {
            assert_eq!(windows.put(&window, at * S, value, &mut closed), Put::In);
            assert!(closed.is_empty());
        }
        windows.put(&window, 15 * S, 32.0, &mut closed);
        assert_eq!(sums(&closed), [(0, 19.0, 3.0)]);
        assert_eq!(windows.put(&window, 9 * S, 1.0, &mut closed), Put::Late);
        windows.close_all(&window, &mut closed);
        assert_eq!(sums(&closed), [(0, 19.0, 3.0), (10, 44.0, 3.0)]);
        assert_eq!(windows.put(&window, 19 * S, 1.0, &mut closed), Put::Late);
        assert_eq!(windows.put(&window, 20 * S, 1.0, &mut closed), Put::In);
    }

    #[test]
    fn hopping_windows_overlap() {
        let window = window(20, 10, 0);
        let (mut windows, mut closed) = (Windows::default(), Vec::new());
        for (at, value) in [(5, 1.0), (15, 2.0), (25, 4.0), (45, 8.0)] {
            windows.put(&window, at * S, value, &mut closed);
        }
        assert_eq!(sums(&closed), [(-10, 1.0, 1.0), (0, 3.0, 2.0), (10, 6.0, 2.0), (20, 4.0, 1.0)]);
    }

    #[test]
    fn a_count_of_points() {
        let window = Window { kind: WindowKind::Count(3), lateness_ns: 0, aggregates: vec![Aggregate::Rate] };
        let (mut windows, mut closed) = (Windows::default(), Vec::new());
        for n in 0..7_i64 {
            windows.put(&window, n * 2 * S, n as f64, &mut closed);
        }
        assert_eq!(sums(&closed), [(0, 3.0, 3.0), (6, 12.0, 3.0)]);
        assert_eq!(closed[0].1.says(Aggregate::Rate), Some(0.5));
    }
}
