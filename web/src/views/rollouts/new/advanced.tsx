/** What most rollouts leave as it is, folded away; a part opens by itself when the server found something wrong in it. */
import { Field } from '~/ui/form'
import { Part, Rows } from '~/ui/parts'

import { nextKey, type Draft } from './draft'

interface Props {
  draft: Draft
  set: (part: Partial<Draft>) => void
  channels: readonly string[]
  error: (field: string) => string | undefined
  /** Whether the server named a field that begins so. */
  wrongIn: (...prefixes: string[]) => boolean
}

type Option = readonly [value: string, text: string]

function Choice({ label, help, value, options, error, onPick }: { label: string; help?: string; value: string; options: readonly Option[]; error?: string | undefined; onPick: (value: string) => void }) {
  return (
    <Field label={label} help={help} error={error}>
      {(ids) => (
        <select {...ids} className="field" value={value} onChange={(e) => onPick(e.target.value)}>
          {options.map(([key, text]) => <option key={key} value={key}>{text}</option>)}
        </select>
      )}
    </Field>
  )
}

function Figure({ label, help, value, error, onSet, min = 0, max, step }: { label: string; help?: string; value: number; error?: string | undefined; onSet: (value: number) => void; min?: number; max?: number; step?: string }) {
  return (
    <Field label={label} help={help} error={error}>
      {(ids) => <input {...ids} type="number" min={min} max={max} step={step} required className="field" value={Number.isNaN(value) ? '' : value} onChange={(e) => onSet(e.target.valueAsNumber)} />}
    </Field>
  )
}

function Words({ label, help, value, error, placeholder, onSet, className }: { label: string; help?: string; value: string; error?: string | undefined; placeholder?: string; onSet: (value: string) => void; className?: string }) {
  return (
    <Field label={label} help={help} error={error} {...(className === undefined ? {} : { className })}>
      {(ids) => <input {...ids} className="field font-mono" spellCheck={false} placeholder={placeholder} value={value} onChange={(e) => onSet(e.target.value)} />}
    </Field>
  )
}

export function Advanced({ draft: d, set, channels, error, wrongIn }: Props) {
  const first = (...fields: string[]): string | undefined => fields.map(error).find(Boolean)
  return (
    <>
      <Part title="Judgement" note="what is noise, how sure it has to be, small waves" open={wrongIn('acceptable', 'falseHalt', 'missed', 'minReports', 'onSmallWave', 'stratifyBy', 'slowStart', 'onInconclusive')}>
        <Figure label="Noise (percent)" help="Failures that a good release may have." min={0} max={99} value={d.acceptableFailureRate} error={error('acceptableFailureRate')} onSet={(acceptableFailureRate) => set({ acceptableFailureRate })} />
        <Figure label="False halts (percent)" help="Of good releases, over the whole rollout." min={1} max={50} value={d.falseHaltPercent} error={error('falseHaltPercent')} onSet={(falseHaltPercent) => set({ falseHaltPercent })} />
        <Figure label="Missed (percent)" help="Of releases as bad as the threshold." min={1} max={50} value={d.missedPercent} error={error('missedPercent')} onSet={(missedPercent) => set({ missedPercent })} />
        <Choice label="A small wave that halts" help="Too small for the promised error." value={d.onSmallWave} options={[['halt', 'halts all the same'], ['pause', 'pauses for a person'], ['retry-elsewhere', 'tries as many other devices']]} error={error('onSmallWave')} onPick={(v) => set({ onSmallWave: v as Draft['onSmallWave'] })} />
        <Choice label="Too little evidence" help="When the gate’s time is over." value={d.onInconclusive} options={[['pause', 'pause for a person'], ['rollback', 'roll back'], ['continue', 'go on without it']]} error={error('onInconclusive')} onPick={(v) => set({ onInconclusive: v as Draft['onInconclusive'] })} />
        <Words label="Reports a gate needs" help="Empty: enough of the wave." value={d.minReports} error={error('minReports')} placeholder="5" onSet={(minReports) => set({ minReports })} />
        <Choice label="In flight" value={d.slowStart ? 'slow' : 'all'} options={[['slow', 'grows with the evidence: 1, 2, 4, …'], ['all', 'the whole budget from the start']]} onPick={(v) => set({ slowStart: v === 'slow' })} />
        <Words label="First waves take from each" help="Labels; devices are taken in turn from each combination." value={d.stratifyBy} error={first('stratifyBy', 'stratifyBy[0]', 'stratifyBy[1]')} onSet={(stratifyBy) => set({ stratifyBy })} />
      </Part>
      <Part title="Budgets of groups" note="never all tills of one store at once" open={wrongIn('groupBy')}>
        <Rows what="budget" rows={d.groupBy} add={() => ({ key: nextKey(), label: 'location', of: 'maxUnavailable' as const, amount: '10%' })} onSet={(groupBy) => set({ groupBy })} error={(i) => first(`groupBy[${i}]`, `groupBy[${i}].label`, `groupBy[${i}].maxUnavailable`, `groupBy[${i}].minAvailable`)}>
          {(row, change, i) => (
            <>
              <span className="text-muted">in each</span>
              <input aria-label={`Budget ${i + 1}, label`} required className="field w-36! font-mono" value={row.label} onChange={(e) => change({ label: e.target.value })} />
              <select aria-label={`Budget ${i + 1}, rule`} className="field w-auto!" value={row.of} onChange={(e) => change({ of: e.target.value as typeof row.of })}>
                <option value="maxUnavailable">at most down</option>
                <option value="minAvailable">at least up</option>
              </select>
              <input aria-label={`Budget ${i + 1}, amount`} required pattern="[0-9]{1,7}|[0-9]{1,3}%" className="field w-20!" value={row.amount} onChange={(e) => change({ amount: e.target.value })} />
            </>
          )}
        </Rows>
      </Part>
      <Part title="Conditions" note="a gate’s condition, and tripwires that halt at once (CEL)" open={wrongIn('gate', 'tripwires')}>
        <Words label="Each gate opens only when" className="sm:col-span-2 lg:col-span-3" placeholder="canary.restarts <= control.restarts + 0.1" value={d.gate} error={error('gate')} onSet={(gate) => set({ gate })} />
        <Rows what="tripwire" rows={d.tripwires} add={() => ({ key: nextKey(), name: '', when: '' })} onSet={(tripwires) => set({ tripwires })} error={(i) => first(`tripwires[${i}]`, `tripwires[${i}].name`, `tripwires[${i}].when`)}>
          {(row, change, i) => (
            <>
              <input aria-label={`Tripwire ${i + 1}, name`} required placeholder="name" className="field w-36!" value={row.name} onChange={(e) => change({ name: e.target.value })} />
              <input aria-label={`Tripwire ${i + 1}, when`} required placeholder="condition" spellCheck={false} className="field min-w-52 flex-1 font-mono" value={row.when} onChange={(e) => change({ when: e.target.value })} />
            </>
          )}
        </Rows>
      </Part>
      <Part title="When" note="windows, blackout dates, cheap hours" open={wrongIn('windows', 'blackouts', 'energy')}>
        <Rows what="window" rows={d.windows} add={() => ({ key: nextKey(), kind: 'maintenance' as const, cron: '0 2 * * *', minutes: 120, timeZone: '' })} onSet={(windows) => set({ windows })} error={(i) => first(`windows[${i}]`, `windows[${i}].cron`, `windows[${i}].durationSeconds`, `windows[${i}].timeZone`)}>
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
                <input type="number" min={1} required aria-label={`Window ${i + 1}, minutes`} className="field w-20!" value={Number.isNaN(row.minutes) ? '' : row.minutes} onChange={(e) => change({ minutes: e.target.valueAsNumber })} />
                min
              </label>
              <input aria-label={`Window ${i + 1}, time zone`} placeholder="the device’s zone" spellCheck={false} className="field w-40!" value={row.timeZone} onChange={(e) => change({ timeZone: e.target.value })} />
            </>
          )}
        </Rows>
        <Rows what="blackout" rows={d.blackouts} add={() => ({ key: nextKey(), from: '', to: '' })} onSet={(blackouts) => set({ blackouts })} error={(i) => first(`blackouts[${i}]`, `blackouts[${i}].from`, `blackouts[${i}].to`)}>
          {(row, change, i) => (
            <>
              <input type="date" required aria-label={`Blackout ${i + 1}, from`} className="field w-40!" value={row.from} onChange={(e) => change({ from: e.target.value })} />
              <span className="text-muted">to</span>
              <input type="date" required aria-label={`Blackout ${i + 1}, to`} className="field w-40!" value={row.to} onChange={(e) => change({ to: e.target.value })} />
            </>
          )}
        </Rows>
        <Choice label="Energy" value={d.energy} options={[['any', 'at any hour'], ['off-hours', 'only inside an energy window']]} error={error('energy')} onPick={(v) => set({ energy: v as Draft['energy'] })} />
      </Part>
      <Part title="Devices that are away" note="wait for them, leave them out, or judge them later" open={wrongIn('offline')}>
        <Choice label="A device that can’t be reached" value={d.offline} options={[['defer', 'is judged with a later wave'], ['wait', 'is waited for'], ['skip', 'is left out for good']]} error={first('offline.policy', 'offline')} onPick={(v) => set({ offline: v as Draft['offline'] })} />
        {d.offline !== 'defer' && <Figure label="For at most (hours)" min={0.02} step="any" value={d.offlineHours} error={error('offline.deadlineSeconds')} onSet={(offlineHours) => set({ offlineHours })} />}
      </Part>
      <Part title="Before and after" note="what must have succeeded, and where the release goes next" open={wrongIn('dependsOn', 'promotion')}>
        <Words label="Only after these rollouts" help="Names, separated by commas." value={d.dependsOn} error={first('dependsOn', 'dependsOn[0]')} onSet={(dependsOn) => set({ dependsOn })} />
        <Choice label="Then offer it to" value={d.promoteTo} options={[['', 'no other channel'], ...channels.map((c): Option => [c, c])]} error={first('promotion.to', 'promotion')} onPick={(promoteTo) => set({ promoteTo })} />
        {d.promoteTo !== '' && (
          <>
            <Choice label="As" value={d.promoteMode} options={[['draft', 'a draft that somebody starts'], ['start', 'a rollout that starts by itself']]} error={error('promotion.mode')} onPick={(v) => set({ promoteMode: v as Draft['promoteMode'] })} />
            <Figure label="After a soak of (hours)" step="any" value={d.promoteAfterHours} error={error('promotion.afterSoakSeconds')} onSet={(promoteAfterHours) => set({ promoteAfterHours })} />
          </>
        )}
      </Part>
    </>
  )
}
