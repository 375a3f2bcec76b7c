//! What a long drain does next, when it looks up between two batches. Pure: what it sees is an argument.

use std::time::Duration;

use farshore_journal::Class;

/// A drain that waits looks up this often.
pub(super) const LOOK_UP: Duration = Duration::from_secs(1);

/// What there is to be seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Since the control plane was told how the gateway stands.
    pub(super) told: Duration,
    /// After how long it is told again.
    pub(super) tell_every: Duration,
    /// Somebody who was not heard yet wants everything sent now.
    pub(super) asked: bool,
    /// This drain has sent something: however many ask, it goes on.
    pub(super) begun: bool,
    /// Alerts came that are not sealed.
    pub(super) alerts: bool,
    /// The link costs money now, and nobody asked.
    pub(super) costs: bool,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The control plane hears how the gateway stands, and says what is new.
    Tell,
    /// No further batch: whoever asks is heard first.
    Leave,
    /// Alerts are sealed, so that they are next.
    Seal,
    /// A batch of these classes.
    Send(&'static [Class]),
}

pub(super) fn turn(seen: &Seen) -> Turn {
    if seen.told >= seen.tell_every {
        Turn::Tell
    } else if seen.asked && seen.begun {
        Turn::Leave
    } else if seen.alerts {
        Turn::Seal
    } else {
        Turn::Send(if seen.costs { &[Class::Alert] } else { &Class::ALL })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_drain_tells_how_it_stands_hears_who_asks_and_stops_where_the_link_begins_to_cost() {
        let minute = Duration::from_secs(60);
        let quiet = Seen { tell_every: minute, ..Seen::default() };
        assert_eq!(turn(&quiet), Turn::Send(&Class::ALL));
        assert_eq!(turn(&Seen { costs: true, ..quiet }), Turn::Send(&[Class::Alert]));
        assert_eq!(turn(&Seen { alerts: true, costs: true, ..quiet }), Turn::Seal);
        let asked = Seen { asked: true, alerts: true, ..quiet };
        assert_eq!(turn(&asked), Turn::Seal, "those who ask again and again don't keep it from sending");
        assert_eq!(turn(&Seen { begun: true, ..asked }), Turn::Leave);
        assert_eq!(turn(&Seen { told: minute, begun: true, ..asked }), Turn::Tell);
    }
}
