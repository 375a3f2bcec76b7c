//! Exit codes: what scripts look at. A promise; each has a test.

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    NotAllowed = 4,
    Conflict = 5,
    RolloutFailed = 6,
    Rejected = 7,
    Pending = 8,
    Interrupted = 130,
}

/// What `farshore help exit-codes` prints.
pub(crate) const HELP: &str = "\
Exit codes of every farshore command:

  0    it worked
  1    it failed: the server could not be reached, a file could not be read, the request was not valid, …
  2    the command line is wrong
  3    there is no such object here (or it belongs to another tenant)
  4    not logged in, or not allowed
  5    conflict: it is already there, it changed in the meantime, or its state does not allow this
  6    the rollout failed, was aborted or was superseded
  7    rejected: a signature, a digest or a trust rule refuses it
  8    timed out, or still pending
  130  interrupted with Ctrl-C

What a command prints on stdout is data; everything else goes to stderr. With -o json an error on stderr is one
application/problem+json object (RFC 9457) with the extra members \"exitCode\" and \"next\".
";
