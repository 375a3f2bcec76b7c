/** The words of incidents: shape, colour and meaning. */
import type { Look } from '~/ui/state'

export const UNKNOWN: Look = { shape: 'question', tone: 'quiet', means: 'A word that this page does not know.' }

export const INCIDENT_STATES: Record<string, Look> = {
  open: { shape: 'bang', tone: 'bad', means: 'The app is not well, or has not been for long enough.' },
  resolved: { shape: 'check', tone: 'ok', means: 'The app stayed well, or somebody said that it is over.' },
}

export const CAUSES: Record<string, string> = {
  'health-check-failed': 'Health check failed',
  'process-exit': 'Process ended',
  'start-failed': 'Start failed',
  'policy-breach': 'Policy broken',
}

export const ACTIONS: Record<string, string> = {
  'auto-restart': 'Restarted',
  recreate: 'Set up anew',
  rollback: 'Rolled back',
  pin: 'Kept the release before',
  'safe-mode': 'Went to the safe release',
  reboot: 'Rebooted',
  hold: 'Gave up and waits',
}

export const causeOf = (word: string): string => CAUSES[word] ?? word
export const actionOf = (word: string): string => ACTIONS[word] ?? word
