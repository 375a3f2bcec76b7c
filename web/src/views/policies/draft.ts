/** A policy as the form holds it, the specification it stands for, and what is different between two of them. */
import type { PolicySpec, Rules } from '~/api/policies'
import { join, split } from '~/ui/words'

/** A value of the form: what was typed. Empty: this policy does not say. */
export type Typed = string

export interface Condition {
  key: number
  name: string
  when: string
  forSeconds: string
  app: string
}

export interface Safe {
  key: number
  app: string
  version: string
}

export interface PolicyWindow {
  key: number
  kind: 'maintenance' | 'download' | 'energy'
  cron: string
  minutes: string
  timeZone: string
}

export interface Blackout {
  key: number
  from: string
  to: string
  timeZone: string
}

export interface Runbook {
  key: number
  name: string
  description: string
  /** The words of its command on one line. */
  command: string
  timeoutSeconds: string
  /** The app in whose container it runs, and the service of it; empty: beside the apps. */
  app: string
  service: string
  arguments: RunbookPlace[]
  /** What this form has no field for. */
  rest: Record<string, unknown>
}

export interface RunbookPlace {
  key: number
  name: string
  pattern: string
  optional: boolean
}

export interface Draft {
  description: string
  selector: string
  priority: string
  conditions: Condition[]
  safeMode: Safe[]
  windows: PolicyWindow[]
  blackouts: Blackout[]
  runbooks: Runbook[]
  /** Every other value, by its path: `restart.maxRestarts`. */
  values: Record<string, Typed>
  /** Rules that this form has no field for; they stay as they are. */
  rest: Rules
}

/** `words`: a list, on one line as a shell would take it. */
export type Kind = 'number' | 'boolean' | 'text' | 'words'

export interface FieldOf {
  path: string
  label: string
  help?: string
  kind: Kind
  /** For a choice: what may be written, and what it means. */
  options?: readonly (readonly [string, string])[]
}

const number = (path: string, label: string, help?: string): FieldOf => ({ path, label, kind: 'number', ...(help === undefined ? {} : { help }) })
const yesNo = (path: string, label: string, otherwise: string): FieldOf => ({
  path,
  label,
  kind: 'boolean',
  help: `Where nobody says: ${otherwise}.`,
  options: [
    ['', 'this policy does not say'],
    ['true', 'yes'],
    ['false', 'no'],
  ],
})

const words = (path: string, label: string, help: string): FieldOf => ({ path, label, kind: 'words', help })

const choice = (path: string, label: string, options: readonly (readonly [string, string])[], help?: string): FieldOf => ({
  path,
  label,
  kind: 'text',
  options: [['', 'this policy does not say'], ...options],
  ...(help === undefined ? {} : { help }),
})
const HOST = ['host', 'as the release says'] as const

/** The plain fields of each section, in the order of the page. */
export const FIELDS = {
  restart: [
    number('restart.backoffMs', 'First pause (ms)', 'Before the first restart.'),
    number('restart.maxBackoffMs', 'Longest pause (ms)'),
    number('restart.backoffFactor', 'Pause grows by', 'Each is so many times the one before; 2 where nobody says.'),
    number('restart.recreateAfter', 'Set up anew after', 'Restarts; everything of the app is stopped first.'),
    number('restart.maxRestarts', 'Most restarts', 'With more, the device goes one step down.'),
    number('restart.windowSeconds', 'Counted over (s)', '600 where nobody says.'),
  ],
  rollback: [
    number('rollback.afterRestarts', 'Go back after', 'Restarts within the time they are counted over.'),
    {
      path: 'rollback.to',
      label: 'Go back to',
      kind: 'text',
      options: [
        ['', 'this policy does not say'],
        ['previous', 'the release before'],
        ['safe-mode', 'the safe-mode release'],
      ],
    },
    yesNo('rollback.reboot', 'Reboot before giving up', 'no'),
  ],
  resources: [
    number('resources.memoryBytes', 'Memory (bytes)', 'Of each app; the release’s own limit counts where it is lower.'),
    number('resources.cpuMillis', 'CPU (thousandths of a core)'),
    number('resources.processes', 'Processes'),
  ],
  isolation: [
    choice('isolation.pid', 'Processes', [HOST, ['private', 'only its own']]),
    choice('isolation.network', 'Network', [HOST, ['none', 'none but a loopback of its own']]),
    choice('isolation.ipc', 'Shared memory and queues', [HOST, ['private', 'only its own']]),
    choice('isolation.uts', 'Host name', [HOST, ['private', 'its own']]),
    yesNo('isolation.readOnlyRoot', 'Read-only file system', 'as the release says'),
    yesNo('isolation.privateTmp', 'A /tmp of its own', 'as the release says'),
    choice(
      'isolation.seccomp',
      'System calls',
      [
        ['none', 'as the release says'],
        ['default', 'dangerous ones fail'],
        ['strict', 'dangerous ones end it, unusual ones are not there'],
      ],
    ),
    words('isolation.maskedPaths', 'Hidden paths', 'Absolute, with blanks between them; each has to be there: /home /root'),
    words('isolation.writablePaths', 'Writable paths', 'Below these a release may ask to write where the file system is read-only.'),
  ],
  retention: [
    number('retention.logBytes', 'Log file (bytes)', 'Rotated at this size.'),
    number('retention.logFiles', 'Log files of an app'),
    number('retention.logSeconds', 'Logs for (s)', 'Older files are deleted.'),
    number('retention.releases', 'Releases from before', 'Kept on the device; 1 where nobody says.'),
    number('retention.unsentSeconds', 'Unsent measurements for (s)'),
    number('retention.unsentBytes', 'Unsent measurements (bytes)'),
    number('retention.measurementDays', 'Measurements for (days)', 'On the control plane; never longer than its own setting.'),
    number('retention.diskFreePercent', 'Disk is short below (%)', 'Then old releases go, then old logs.'),
  ],
  operations: [
    yesNo('operations.logs', 'Read logs', 'yes'),
    yesNo('operations.diagnostics', 'Diagnostics', 'yes'),
    yesNo('operations.restart', 'Restart apps', 'yes'),
    yesNo('operations.exec', 'Any command beside the apps', 'no'),
    yesNo('operations.execInside', 'Any command inside containers', 'no'),
    yesNo('operations.reboot', 'Reboot', 'no'),
    yesNo('operations.reasonRequired', 'A reason is needed', 'no'),
  ],
  reporting: [number('reporting.sampleSeconds', 'Measure every (s)'), number('reporting.batchSeconds', 'Send every (s)')],
  schedule: [
    {
      path: 'schedule.energy',
      label: 'Energy',
      kind: 'text',
      options: [
        ['', 'this policy does not say'],
        ['any', 'at any hour'],
        ['off-hours', 'only inside an energy window'],
      ],
    },
  ],
} satisfies Record<string, FieldOf[]>

const ALL: FieldOf[] = Object.values(FIELDS).flat()
const LISTS = ['health.conditions', 'rollback.safeMode', 'schedule.windows', 'schedule.blackouts', 'operations.runbooks']

let keys = 0
export const nextKey = (): number => (keys += 1)

export const freshDraft = (): Draft => draftOf({ rules: {} })

const list = (rules: Rules, path: string): Record<string, unknown>[] => {
  const [section = '', field = ''] = path.split('.')
  const found = rules[section]?.[field]
  return Array.isArray(found) ? (found as Record<string, unknown>[]) : []
}

const typed = (value: unknown): string => {
  if (value === undefined || value === null) return ''
  return typeof value === 'object' ? JSON.stringify(value) : String(value as string | number | boolean)
}

/** The form of a specification. */
export function draftOf(spec: PolicySpec): Draft {
  const rules = spec.rules
  const values: Record<string, Typed> = {}
  const rest: Rules = {}
  for (const [section, fields] of Object.entries(rules)) {
    for (const [field, value] of Object.entries(fields)) {
      const path = `${section}.${field}`
      if (LISTS.includes(path)) continue
      const known = ALL.find((of) => of.path === path)
      // An empty list says something: that there is nothing in it.
      if (known?.kind === 'words' && Array.isArray(value) && value.length > 0) values[path] = join(value.map((word) => typed(word)))
      else if (known !== undefined && known.kind !== 'words') values[path] = typed(value)
      else rest[section] = { ...rest[section], [field]: value }
    }
  }
  return {
    description: spec.description ?? '',
    selector: spec.selector ?? '',
    priority: typed(spec.priority ?? 0),
    conditions: list(rules, 'health.conditions').map((c) => ({ key: nextKey(), name: typed(c.name), when: typed(c.when), forSeconds: typed(c.forSeconds), app: typed(c.app) })),
    safeMode: list(rules, 'rollback.safeMode').map((s) => ({ key: nextKey(), app: typed(s.app), version: typed(s.version) })),
    windows: list(rules, 'schedule.windows').map((w) => ({
      key: nextKey(),
      kind: typed(w.kind) as PolicyWindow['kind'],
      cron: typed(w.cron),
      minutes: typed(Number(w.durationSeconds) / 60),
      timeZone: typed(w.timeZone),
    })),
    blackouts: list(rules, 'schedule.blackouts').map((b) => ({ key: nextKey(), from: typed(b.from), to: typed(b.to), timeZone: typed(b.timeZone) })),
    runbooks: list(rules, 'operations.runbooks').map(runbookOf),
    values,
    rest,
  }
}

function runbookOf(of: Record<string, unknown>): Runbook {
  const { name, description, command, timeoutSeconds, app, service, arguments: places, ...rest } = of
  const words = Array.isArray(command) ? command.map((word) => typed(word)) : []
  const place = (p: Record<string, unknown>): RunbookPlace => ({ key: nextKey(), name: typed(p.name), pattern: typed(p.pattern), optional: p.optional === true })
  return {
    key: nextKey(),
    name: typed(name),
    description: typed(description),
    command: join(words),
    timeoutSeconds: typed(timeoutSeconds),
    app: typed(app),
    service: typed(service),
    arguments: Array.isArray(places) ? (places as Record<string, unknown>[]).map(place) : [],
    rest,
  }
}

const runbookSpec = (runbook: Runbook): Record<string, unknown> => ({
  ...runbook.rest,
  name: runbook.name,
  ...optional('description', runbook.description),
  command: split(runbook.command),
  ...optional('app', runbook.app),
  ...optional('service', runbook.service),
  ...(runbook.timeoutSeconds === '' ? {} : { timeoutSeconds: figure(runbook.timeoutSeconds) }),
  ...(runbook.arguments.length === 0 ? {} : { arguments: runbook.arguments.map(({ name, pattern, optional: may }) => ({ name, pattern, ...(may ? { optional: true } : {}) })) }),
})

/** A number where one was typed; the text as it is otherwise, so that the server says what is wrong with it. */
const figure = (text: string): unknown => {
  const value = Number(text)
  return text.trim() === '' || Number.isNaN(value) ? text : value
}

/** What was typed, as the kind of its field. */
const read = (kind: Kind, text: string): unknown => {
  if (kind === 'number') return figure(text)
  if (kind === 'words') return split(text)
  return kind === 'boolean' ? text === 'true' : text
}

const optional = (name: string, value: unknown): Record<string, unknown> => (value === '' ? {} : { [name]: value })

/** The specification of a form. Sections that say nothing are left out. */
export function specOf(draft: Draft): PolicySpec {
  const rules: Rules = {}
  const put = (path: string, value: unknown): void => {
    const [section = '', field = ''] = path.split('.')
    rules[section] = { ...rules[section], [field]: value }
  }
  for (const [section, fields] of Object.entries(draft.rest)) for (const [field, value] of Object.entries(fields)) put(`${section}.${field}`, value)
  for (const known of ALL) {
    const text = draft.values[known.path] ?? ''
    if (text.trim() === '') continue
    put(known.path, read(known.kind, text))
  }
  if (draft.conditions.length > 0) {
    put(
      'health.conditions',
      draft.conditions.map((c) => ({ name: c.name, when: c.when, ...(c.forSeconds === '' ? {} : { forSeconds: figure(c.forSeconds) }), ...optional('app', c.app) })),
    )
  }
  if (draft.safeMode.length > 0) put('rollback.safeMode', draft.safeMode.map(({ app, version }) => ({ app, version })))
  if (draft.windows.length > 0) {
    put(
      'schedule.windows',
      draft.windows.map((w) => {
        const minutes = figure(w.minutes)
        return { kind: w.kind, cron: w.cron, durationSeconds: typeof minutes === 'number' ? Math.round(minutes * 60) : minutes, ...optional('timeZone', w.timeZone) }
      }),
    )
  }
  if (draft.blackouts.length > 0) put('schedule.blackouts', draft.blackouts.map((b) => ({ from: b.from, to: b.to, ...optional('timeZone', b.timeZone) })))
  if (draft.runbooks.length > 0) put('operations.runbooks', draft.runbooks.map(runbookSpec))
  const priority = figure(draft.priority)
  return { description: draft.description, selector: draft.selector, priority: (priority === '' ? 0 : priority) as number, rules }
}

export interface Difference {
  path: string
  from: string | undefined
  to: string | undefined
}

function leaves(value: unknown, path: string, into: Map<string, string>): void {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    for (const [key, inner] of Object.entries(value)) leaves(inner, path === '' ? key : `${path}.${key}`, into)
  } else if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) leaves(item, `${path}[${index}]`, into)
  } else if (value !== undefined && value !== null && value !== '') {
    into.set(path, typed(value))
  }
}

/** What is different between two versions, by path. */
export function differences(before: PolicySpec, after: PolicySpec): Difference[] {
  const [old, now] = [new Map<string, string>(), new Map<string, string>()]
  leaves(before, '', old)
  leaves(after, '', now)
  return [...new Set([...old.keys(), ...now.keys()])]
    .toSorted()
    .filter((path) => old.get(path) !== now.get(path))
    .map((path) => ({ path, from: old.get(path), to: now.get(path) }))
}
