/** What a policy says, section by section. An empty field: this policy does not say. */
import { buttonClass } from '~/ui/button'
import { Field } from '~/ui/form'
import { Icon } from '~/ui/icon'
import { Part, Rows } from '~/ui/parts'

import { FIELDS, nextKey, type Draft, type FieldOf, type Runbook, type RunbookPlace } from './draft'

interface Props {
  draft: Draft
  set: (part: Partial<Draft>) => void
  /** What the server found wrong with a field below `spec`. */
  error: (field: string) => string | undefined
  /** Whether the server named a field that begins so. */
  wrongIn: (...prefixes: string[]) => boolean
}

function Value({ of, draft, set, error }: { of: FieldOf } & Omit<Props, 'wrongIn'>) {
  const value = draft.values[of.path] ?? ''
  const change = (text: string): void => set({ values: { ...draft.values, [of.path]: text } })
  return (
    <Field label={of.label} help={of.help} error={error(`rules.${of.path}`)}>
      {(ids) =>
        of.options === undefined ? (
          <input {...ids} className="field" inputMode={of.kind === 'number' ? 'numeric' : undefined} placeholder="not said" value={value} onChange={(e) => change(of.kind === 'words' ? e.target.value : e.target.value.trim())} />
        ) : (
          <select {...ids} className="field" value={value} onChange={(e) => change(e.target.value)}>
            {of.options.map(([key, text]) => (
              <option key={key} value={key}>
                {text}
              </option>
            ))}
          </select>
        )
      }
    </Field>
  )
}

function RunbookRow({ row, change, number }: { row: Runbook; change: (part: Partial<Runbook>) => void; number: number }) {
  const setPlace = (key: number, part: Partial<RunbookPlace>): void => change({ arguments: row.arguments.map((p) => (p.key === key ? { ...p, ...part } : p)) })
  return (
    <>
      <input aria-label={`Runbook ${number}, name`} required placeholder="name" spellCheck={false} className="field w-36!" value={row.name} onChange={(e) => change({ name: e.target.value.trim() })} />
      <input aria-label={`Runbook ${number}, command`} required placeholder="/usr/bin/ping -c 3" spellCheck={false} className="field min-w-52 flex-1 font-mono" value={row.command} onChange={(e) => change({ command: e.target.value })} />
      <label className="flex items-center gap-1.5">
        <span className="text-muted">at most</span>
        <input inputMode="numeric" aria-label={`Runbook ${number}, seconds`} className="field w-20!" value={row.timeoutSeconds} onChange={(e) => change({ timeoutSeconds: e.target.value.trim() })} />s
      </label>
      <input aria-label={`Runbook ${number}, what it is for`} placeholder="what it is for" className="field min-w-40 flex-1" value={row.description} onChange={(e) => change({ description: e.target.value })} />
      <label className="flex items-center gap-1.5">
        <span className="text-muted">inside app</span>
        <input aria-label={`Runbook ${number}, app`} placeholder="beside all" spellCheck={false} className="field w-32!" value={row.app} onChange={(e) => change({ app: e.target.value.trim() })} />
      </label>
      <label className="flex items-center gap-1.5">
        <span className="text-muted">service</span>
        <input aria-label={`Runbook ${number}, service`} placeholder="its only one" spellCheck={false} className="field w-32!" value={row.service} onChange={(e) => change({ service: e.target.value.trim() })} />
      </label>
      <button type="button" className={buttonClass('plain', true)} onClick={() => change({ arguments: [...row.arguments, { key: nextKey(), name: '', pattern: '', optional: false }] })}>
        Add an argument
      </button>
      {row.arguments.map((place, j) => (
        <span key={place.key} className="order-1 flex w-full flex-wrap items-center gap-2 pl-6">
          <input aria-label={`Runbook ${number}, argument ${j + 1}, name`} required placeholder="name" spellCheck={false} className="field w-36!" value={place.name} onChange={(e) => setPlace(place.key, { name: e.target.value.trim() })} />
          <input aria-label={`Runbook ${number}, argument ${j + 1}, pattern`} required placeholder="till-*|10.0.?.*" spellCheck={false} className="field min-w-40 flex-1 font-mono" value={place.pattern} onChange={(e) => setPlace(place.key, { pattern: e.target.value })} />
          <label className="flex items-center gap-1.5">
            <input type="checkbox" checked={place.optional} onChange={(e) => setPlace(place.key, { optional: e.target.checked })} />
            may be left out
          </label>
          <button type="button" aria-label={`Remove argument ${j + 1} of runbook ${number}`} className={buttonClass('ghost', true)} onClick={() => change({ arguments: row.arguments.filter((p) => p.key !== place.key) })}>
            <Icon name="close" size={12} />
          </button>
        </span>
      ))}
    </>
  )
}

export function PolicyForm({ draft: d, set, error, wrongIn }: Props) {
  const first = (...fields: string[]): string | undefined => fields.map((field) => error(`rules.${field}`)).find(Boolean)
  const values = (section: keyof typeof FIELDS) => FIELDS[section].map((of) => <Value key={of.path} of={of} draft={d} set={set} error={error} />)
  const said = (section: string): boolean => Object.entries(d.values).some(([path, value]) => path.startsWith(`${section}.`) && value !== '')
  const open = (section: string, lists = 0): boolean => wrongIn(`rules.${section}`) || lists > 0 || said(section)
  const wide = 'sm:col-span-2 lg:col-span-3'
  return (
    <>
      <Part title="Health conditions" note="what must not be true; CEL over metrics and events" open={open('health', d.conditions.length)}>
        <Rows
          what="condition"
          rows={d.conditions}
          add={() => ({ key: nextKey(), name: '', when: '', forSeconds: '60', app: '' })}
          onSet={(conditions) => set({ conditions })}
          error={(i) => first(`health.conditions[${i}]`, `health.conditions[${i}].name`, `health.conditions[${i}].when`, `health.conditions[${i}].forSeconds`, `health.conditions[${i}].app`)}
        >
          {(row, change, i) => (
            <>
              <input aria-label={`Condition ${i + 1}, name`} required placeholder="name" className="field w-36!" value={row.name} onChange={(e) => change({ name: e.target.value })} />
              <input aria-label={`Condition ${i + 1}, when`} required placeholder={'metric("mem_used") / metric("mem_total") > 0.95'} spellCheck={false} className="field min-w-52 flex-1 font-mono" value={row.when} onChange={(e) => change({ when: e.target.value })} />
              <label className="flex items-center gap-1.5">
                <span className="text-muted">for</span>
                <input inputMode="numeric" aria-label={`Condition ${i + 1}, seconds`} className="field w-20!" value={row.forSeconds} onChange={(e) => change({ forSeconds: e.target.value.trim() })} />s
              </label>
              <input aria-label={`Condition ${i + 1}, app`} placeholder="the device" className="field w-32!" value={row.app} onChange={(e) => change({ app: e.target.value.trim() })} />
            </>
          )}
        </Rows>
        <p className={`text-sm text-muted ${wide}`}>With an app, a broken condition counts like a failed check of it and heals it; without one the device tells an event.</p>
      </Part>
      <Part title="Restart" note="pauses, and how many restarts are too many" open={open('restart')}>
        {values('restart')}
      </Part>
      <Part title="Rollback" note="when a release that was good is given up, and for what" open={open('rollback', d.safeMode.length)}>
        {values('rollback')}
        <Rows
          what="safe-mode release"
          rows={d.safeMode}
          add={() => ({ key: nextKey(), app: '', version: '' })}
          onSet={(safeMode) => set({ safeMode })}
          error={(i) => first(`rollback.safeMode[${i}]`, `rollback.safeMode[${i}].app`, `rollback.safeMode[${i}].version`) ?? (i === 0 ? first('rollback.safeMode') : undefined)}
        >
          {(row, change, i) => (
            <>
              <input aria-label={`Safe-mode release ${i + 1}, app`} required placeholder="app" className="field w-40!" value={row.app} onChange={(e) => change({ app: e.target.value.trim() })} />
              <input aria-label={`Safe-mode release ${i + 1}, version`} required placeholder="version" className="field w-32!" value={row.version} onChange={(e) => change({ version: e.target.value.trim() })} />
            </>
          )}
        </Rows>
      </Part>
      <Part title="Resources" note="limits of each app" open={open('resources')}>
        {values('resources')}
      </Part>
      <Part title="Isolation" note="what each app is kept apart from at least; a release may ask for more" open={open('isolation')}>
        {values('isolation')}
        <p className={`text-sm text-muted ${wide}`}>For apps that are plain processes, from their next start; until then an app that has less says so. A device that can’t give it runs no new release.</p>
      </Part>
      <Part title="Windows" note="when devices fetch and install; rollouts obey these as well" open={open('schedule', d.windows.length + d.blackouts.length)}>
        <Rows
          what="window"
          rows={d.windows}
          add={() => ({ key: nextKey(), kind: 'maintenance' as const, cron: '0 2 * * *', minutes: '120', timeZone: '' })}
          onSet={(windows) => set({ windows })}
          error={(i) => first(`schedule.windows[${i}]`, `schedule.windows[${i}].cron`, `schedule.windows[${i}].durationSeconds`, `schedule.windows[${i}].timeZone`) ?? (i === 0 ? first('schedule.windows') : undefined)}
        >
          {(row, change, i) => (
            <>
              <select aria-label={`Window ${i + 1}, kind`} className="field w-auto!" value={row.kind} onChange={(e) => change({ kind: e.target.value as typeof row.kind })}>
                <option value="maintenance">maintenance</option>
                <option value="download">download</option>
                <option value="energy">energy</option>
              </select>
              <input aria-label={`Window ${i + 1}, opens (cron)`} required spellCheck={false} className="field w-36! font-mono" value={row.cron} onChange={(e) => change({ cron: e.target.value })} />
              <label className="flex items-center gap-1.5">
                <span className="text-muted">for</span>
                <input inputMode="numeric" required aria-label={`Window ${i + 1}, minutes`} className="field w-20!" value={row.minutes} onChange={(e) => change({ minutes: e.target.value.trim() })} />
                min
              </label>
              <input aria-label={`Window ${i + 1}, time zone`} placeholder="the device’s zone" spellCheck={false} className="field w-40!" value={row.timeZone} onChange={(e) => change({ timeZone: e.target.value.trim() })} />
            </>
          )}
        </Rows>
        <Rows
          what="blackout"
          rows={d.blackouts}
          add={() => ({ key: nextKey(), from: '', to: '', timeZone: '' })}
          onSet={(blackouts) => set({ blackouts })}
          error={(i) => first(`schedule.blackouts[${i}]`, `schedule.blackouts[${i}].from`, `schedule.blackouts[${i}].to`, `schedule.blackouts[${i}].timeZone`)}
        >
          {(row, change, i) => (
            <>
              <input type="date" required aria-label={`Blackout ${i + 1}, from`} className="field w-40!" value={row.from} onChange={(e) => change({ from: e.target.value })} />
              <span className="text-muted">to</span>
              <input type="date" required aria-label={`Blackout ${i + 1}, to`} className="field w-40!" value={row.to} onChange={(e) => change({ to: e.target.value })} />
            </>
          )}
        </Rows>
        {values('schedule')}
      </Part>
      <Part title="Retention" note="logs, releases and measurements" open={open('retention')}>
        {values('retention')}
      </Part>
      <Part title="Operations" note="what may be done from afar" open={open('operations', d.runbooks.length)}>
        {values('operations')}
        <Rows
          what="runbook"
          rows={d.runbooks}
          add={() => ({ key: nextKey(), name: '', description: '', command: '', timeoutSeconds: '60', app: '', service: '', arguments: [], rest: {} })}
          onSet={(runbooks) => set({ runbooks })}
          error={(i) =>
            first(...['', '.name', '.description', '.command', '.timeoutSeconds', '.app', '.service', '.arguments'].map((field) => `operations.runbooks[${i}]${field}`)) ??
            d.runbooks[i]?.arguments.map((_, j) => first(...['', '.name', '.pattern', '.optional'].map((field) => `operations.runbooks[${i}].arguments[${j}]${field}`))).find(Boolean) ??
            (i === 0 ? first('operations.runbooks') : undefined)
          }
        >
          {(row, change, i) => <RunbookRow row={row} change={change} number={i + 1} />}
        </Rows>
        <p className={`text-sm text-muted ${wide}`}>
          A runbook is a command that may be run by its name, as an unprivileged user. Words are given to the program as they are, without a shell; quotes keep spaces together. With an app it runs inside that app’s container.
        </p>
      </Part>
      <Part title="Reporting" note="how often devices measure and send" open={open('reporting')}>
        {values('reporting')}
      </Part>
    </>
  )
}
