/** The words of operations: their states, and what each verb says and needs. */
import type { Operation, OperationState, Verb } from '~/api/operations'
import type { Device } from '~/api/types'
import type { Look } from '~/ui/state'

export const OPERATION_STATES: Record<OperationState, Look> = {
  queued: { shape: 'dot', tone: 'quiet', means: 'It waits: for the device, for its turn, or for a budget.' },
  delivered: { shape: 'half', tone: 'info', means: 'The device has it, and has not begun.' },
  running: { shape: 'arrow', tone: 'info', means: 'The device is doing it.' },
  succeeded: { shape: 'check', tone: 'ok', means: 'It was done.' },
  failed: { shape: 'cross', tone: 'bad', means: 'It was tried, and did not work.' },
  expired: { shape: 'ring', tone: 'warn', means: 'Nobody did it, or said how it ended, in time.' },
  cancelled: { shape: 'bars', tone: 'quiet', means: 'Somebody gave it up.' },
  unsupported: { shape: 'empty', tone: 'warn', means: 'The device does not know how.' },
  unknown: { shape: 'question', tone: 'quiet', means: 'The server uses a word this page does not know.' },
}

export interface VerbLook {
  verb: Verb
  title: string
  says: string
  permission: 'device.operate' | 'device.write'
  danger?: boolean
  needs?: 'app' | 'runbook' | 'channel'
  /** Its output is what it is asked for. */
  reads?: boolean
  cannot?: (device: Device) => string | undefined
  /** Only for devices that a selector names: for those that one sees there is a button. */
  bySelector?: boolean
}

export const VERBS: readonly VerbLook[] = [
  {
    verb: 'exec',
    title: 'Run a runbook',
    says: 'A command that the device’s policy names is run as an unprivileged user, with a time limit. Its output is recorded.',
    permission: 'device.operate',
    needs: 'runbook',
    reads: true,
  },
  { verb: 'logs', title: 'Read logs', says: 'The end of an app’s log.', permission: 'device.operate', needs: 'app', reads: true },
  { verb: 'diagnostics', title: 'Diagnostics', says: 'How the device is: host, agent, link, disks, what happened last.', permission: 'device.operate', reads: true },
  { verb: 'inventory', title: 'Inventory', says: 'What the device has: hardware, system, packages, apps.', permission: 'device.operate', reads: true },
  { verb: 'restart-app', title: 'Restart an app', says: 'The app is stopped and started.', permission: 'device.operate', needs: 'app' },
  {
    verb: 'rollback',
    title: 'Roll an app back',
    says: 'The app goes back to its earlier release on these devices, which hold it there until it is resumed.',
    permission: 'device.operate',
    danger: true,
    needs: 'app',
  },
  {
    verb: 'drain',
    title: 'Drain',
    says: 'They are cordoned, and their apps are stopped as far as the budgets of their groups allow, and stay stopped until they are uncordoned.',
    permission: 'device.operate',
    danger: true,
    cannot: (device) =>
      ['claimed', 'cordoned'].includes(device.status.lifecycle) ? undefined : 'Only claimed and cordoned devices can be drained.',
  },
  {
    verb: 'reboot',
    title: 'Reboot',
    says: 'They are rebooted as far as the budgets of their groups allow, where their policy allows it. What is under way ends first.',
    permission: 'device.operate',
    danger: true,
  },
  {
    verb: 'force-sync',
    title: 'Sync now',
    says: 'Their gateways send what waits, now, also over a link that costs. They hear of it with their next exchange.',
    permission: 'device.operate',
  },
  { verb: 'cordon', title: 'Cordon', says: 'They keep what they have and get nothing new until they are uncordoned.', permission: 'device.operate', bySelector: true },
  { verb: 'uncordon', title: 'Uncordon', says: 'They get new releases again, and drained ones start their apps.', permission: 'device.operate', bySelector: true },
  { verb: 'set-channel', title: 'Change channel', says: 'They follow another channel from now on.', permission: 'device.write', needs: 'channel' },
]

/** What it is, in a few words. */
export function whatOf(operation: Operation): string {
  const { kind, app, arguments: given } = operation.spec
  if (given.runbook !== undefined) return [given.runbook, ...(given.arguments ?? [])].join(' ')
  if (given.command !== undefined) return given.command
  return app === undefined ? kind : `${kind} of ${app}`
}
