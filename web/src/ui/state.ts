/** The words of a device's four states: shape, colour and formal definition of each. The same everywhere. */

export type Tone = 'ok' | 'warn' | 'bad' | 'info' | 'quiet'
export type Shape =
  | 'full'
  | 'half'
  | 'ring'
  | 'check'
  | 'bang'
  | 'cross'
  | 'question'
  | 'equal'
  | 'arrow'
  | 'unequal'
  | 'bars'
  | 'empty'
  | 'dot'
  | 'back'

export interface Look {
  shape: Shape
  tone: Tone
  /** What the word means, exactly. */
  means: string
}

export type Dimension = 'reachability' | 'health' | 'conformance' | 'lifecycle'

export const DIMENSIONS: readonly Dimension[] = ['reachability', 'health', 'conformance', 'lifecycle']

const UNKNOWN: Look = { shape: 'question', tone: 'quiet', means: 'The server has not been told, or uses a word this page does not know.' }

export const LOOKS: Record<Dimension, Record<string, Look>> = {
  reachability: {
    online: { shape: 'full', tone: 'ok', means: 'Its channel is open and it was heard within three heartbeats.' },
    stale: { shape: 'half', tone: 'warn', means: 'It was heard less than five minutes ago, but not within three heartbeats, or its channel is closed.' },
    offline: { shape: 'ring', tone: 'quiet', means: 'Nothing was heard from it for five minutes or more.' },
  },
  health: {
    healthy: { shape: 'check', tone: 'ok', means: 'All its apps pass their health checks, and so does the machine.' },
    degraded: { shape: 'bang', tone: 'warn', means: 'It works, with something wrong that it deals with or that needs a look.' },
    failing: { shape: 'cross', tone: 'bad', means: 'At least one app does not pass its health checks.' },
    unknown: { shape: 'question', tone: 'quiet', means: 'It has not reported its health yet.' },
  },
  conformance: {
    conforming: { shape: 'equal', tone: 'ok', means: 'It runs exactly what it should.' },
    converging: { shape: 'arrow', tone: 'info', means: 'It is on its way to what it should run.' },
    diverged: { shape: 'unequal', tone: 'bad', means: 'It runs something else than it should and is not on its way.' },
    held: { shape: 'bars', tone: 'warn', means: 'It went back to its previous release by itself and stays there until somebody resumes it.' },
    unsupported: { shape: 'empty', tone: 'warn', means: 'Its agent does not understand what it is asked to run.' },
  },
  lifecycle: {
    pending: { shape: 'dot', tone: 'info', means: 'It has shown a valid claim token and waits for a person to approve it.' },
    claimed: { shape: 'dot', tone: 'quiet', means: 'It belongs to this tenant and works.' },
    cordoned: { shape: 'bars', tone: 'warn', means: 'It keeps what it has and gets nothing new.' },
    draining: { shape: 'arrow', tone: 'info', means: 'Its apps are being stopped on purpose.' },
    drained: { shape: 'ring', tone: 'quiet', means: 'Its apps were stopped on purpose.' },
    decommissioning: { shape: 'arrow', tone: 'warn', means: 'It is being taken out of the fleet.' },
    decommissioned: { shape: 'cross', tone: 'quiet', means: 'It has left the fleet; its certificate is revoked.' },
  },
}

export const look = (dimension: Dimension, word: string): Look => LOOKS[dimension][word] ?? UNKNOWN

/** What an app does on a device. */
export const PHASES: Record<string, Look> = {
  absent: { shape: 'ring', tone: 'quiet', means: 'Not on the device.' },
  downloading: { shape: 'arrow', tone: 'info', means: 'Its artifact is being fetched.' },
  staged: { shape: 'half', tone: 'info', means: 'Fetched and verified; waits for its permit.' },
  starting: { shape: 'arrow', tone: 'info', means: 'Started; its checks have not passed yet.' },
  soaking: { shape: 'arrow', tone: 'info', means: 'Its checks pass; they must keep passing for the soak time.' },
  running: { shape: 'full', tone: 'ok', means: 'Runs and was committed.' },
  failing: { shape: 'cross', tone: 'bad', means: 'Runs, or tries to, and does not pass its checks.' },
  'rolling-back': { shape: 'back', tone: 'warn', means: 'Going back to the previous release.' },
  held: { shape: 'bars', tone: 'warn', means: 'Went back by itself; stays until resumed.' },
  stopping: { shape: 'arrow', tone: 'quiet', means: 'Being stopped.' },
  stopped: { shape: 'ring', tone: 'quiet', means: 'Stopped.' },
  refused: { shape: 'cross', tone: 'bad', means: 'Its signature, digest or floor does not allow it.' },
  unsupported: { shape: 'empty', tone: 'warn', means: 'The agent does not understand its manifest.' },
}

export const phaseLook = (phase: string): Look => PHASES[phase] ?? UNKNOWN
