/** Waves one by one, or by a rule of growth; who approves their gates. */
import type { ApprovalRule } from '~/api/rollout-types'
import { Button, buttonClass } from '~/ui/button'
import { Field } from '~/ui/form'
import { Icon } from '~/ui/icon'
import { count } from '~/ui/number'

import { waveRow, type Draft, type WaveRow } from './draft'

export const APPROVALS: readonly [ApprovalRule, string][] = [
  ['automatic', 'by itself'],
  ['one-person', 'one person approves'],
  ['two-people', 'two people approve'],
]

interface Props {
  draft: Draft
  set: (part: Partial<Draft>) => void
  population: number | undefined
  /** What the server says of a field, such as `waves[1].percent`. */
  error: (field: string) => string | undefined
}

/** How many devices a row means in all, where that can be said here. */
function reach(w: WaveRow, population: number | undefined): string {
  if (population === undefined || w.by === 'selector') return ''
  const n = w.by === 'count' ? w.count : Math.max(1, Math.ceil((population * w.percent) / 100))
  return Number.isFinite(n) ? `${count(Math.min(population, n))} in all` : ''
}

export function WavesEditor({ draft, set, population, error }: Props) {
  const { waves } = draft
  const change = (at: number, part: Partial<WaveRow>): void => set({ waves: waves.map((w, i) => (i === at ? { ...w, ...part } : w)) })
  return (
    <div className="flex flex-col gap-3">
      <label className="flex flex-wrap items-center gap-2">
        <span className="text-muted">Waves are</span>
        <select className="field w-auto!" value={draft.growth} onChange={(e) => set({ growth: e.target.value as Draft['growth'] })}>
          <option value="written">written one by one</option>
          <option value="linear">equal steps</option>
          <option value="exponential">doubled each time</option>
        </select>
      </label>
      {draft.growth === 'written' ? (
        <>
          {waves.map((w, i) => {
            const wrong = [`waves[${i}]`, `waves[${i}].percent`, `waves[${i}].count`, `waves[${i}].selector`, `waves[${i}].soakSeconds`, `waves[${i}].gate`].map(error).find(Boolean)
            return (
              <div key={w.key}>
                <div className="flex flex-wrap items-center gap-2">
                  <span className="w-14 font-medium">Wave {i + 1}</span>
                  <select aria-label={`Wave ${i + 1}, by`} className="field w-auto! pr-1!" value={w.by} onChange={(e) => change(i, { by: e.target.value as WaveRow['by'] })}>
                    <option value="percent">to percent</option>
                    <option value="count">to count</option>
                    <option value="selector">all that match</option>
                  </select>
                  {w.by === 'percent' && (
                    <label className="flex items-center gap-1.5">
                      <input type="number" min={1} max={100} required aria-label={`Wave ${i + 1}, percent`} className="field w-18!" value={Number.isNaN(w.percent) ? '' : w.percent} onChange={(e) => change(i, { percent: e.target.valueAsNumber })} />%
                    </label>
                  )}
                  {w.by === 'count' && (
                    <input type="number" min={1} required aria-label={`Wave ${i + 1}, devices`} className="field w-20!" value={Number.isNaN(w.count) ? '' : w.count} onChange={(e) => change(i, { count: e.target.valueAsNumber })} />
                  )}
                  {w.by === 'selector' && (
                    <input required aria-label={`Wave ${i + 1}, selector`} placeholder="ring=canary" spellCheck={false} className="field w-44! font-mono" value={w.selector} onChange={(e) => change(i, { selector: e.target.value })} />
                  )}
                  <label className="flex items-center gap-1.5">
                    <span className="text-muted">soaks</span>
                    <input type="number" min={0} max={43200} step="any" required aria-label={`Wave ${i + 1}, soak in minutes`} className="field w-18!" value={Number.isNaN(w.soakMinutes) ? '' : w.soakMinutes} onChange={(e) => change(i, { soakMinutes: e.target.valueAsNumber })} />
                    min
                  </label>
                  <span className="text-sm text-muted">{reach(w, population)}</span>
                  <span className="flex-1" />
                  <button type="button" aria-label={`Remove wave ${i + 1}`} className={buttonClass('ghost', true)} onClick={() => set({ waves: waves.filter((_, at) => at !== i) })} disabled={waves.length === 1}>
                    <Icon name="close" size={12} />
                  </button>
                </div>
                <details className="ml-16 text-sm">
                  <summary className="w-fit py-0.5 text-muted">
                    its gate{w.approval !== '' || w.gate !== '' ? ': own rule' : ''}
                  </summary>
                  <div className="flex flex-wrap items-center gap-2 py-1">
                    <select aria-label={`Wave ${i + 1}, gate opens`} className="field w-auto!" value={w.approval} onChange={(e) => change(i, { approval: e.target.value as WaveRow['approval'] })}>
                      <option value="">as the rollout says</option>
                      {APPROVALS.map(([value, text]) => <option key={value} value={value}>{text}</option>)}
                    </select>
                    <input aria-label={`Wave ${i + 1}, condition of its gate`} placeholder="condition (CEL), else the rollout’s" spellCheck={false} className="field min-w-52 flex-1 font-mono" value={w.gate} onChange={(e) => change(i, { gate: e.target.value })} />
                  </div>
                </details>
                {wrong !== undefined && <p className="ml-16 text-sm text-bad">{wrong}</p>}
              </div>
            )
          })}
          <div>
            <Button
              small
              onClick={() => {
                const before = waves.findLast((w, i) => i < waves.length - 1 && w.by === 'percent')?.percent ?? 0
                set({ waves: [...waves.slice(0, -1), waveRow(Math.min(99, Math.max(before + 1, Math.round((before + 100) / 2)))), ...waves.slice(-1)] })
              }}
            >
              <Icon name="plus" size={12} />
              Add a wave
            </Button>
          </div>
        </>
      ) : (
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label="How many waves" error={error('growth.waves') ?? error('growth')} help={draft.growth === 'linear' ? 'Each adds the same share.' : 'Each doubles what was reached; at most 8.'}>
            {(ids) => <input {...ids} type="number" min={1} max={draft.growth === 'linear' ? 32 : 8} required className="field" value={Number.isNaN(draft.growthWaves) ? '' : draft.growthWaves} onChange={(e) => set({ growthWaves: e.target.valueAsNumber })} />}
          </Field>
          <Field label="Each soaks (minutes)" error={error('growth.soakSeconds')}>
            {(ids) => <input {...ids} type="number" min={0} step="any" required className="field" value={Number.isNaN(draft.growthSoakMinutes) ? '' : draft.growthSoakMinutes} onChange={(e) => set({ growthSoakMinutes: e.target.valueAsNumber })} />}
          </Field>
        </div>
      )}
      {error('waves') !== undefined && <p className="text-sm text-bad">{error('waves')}</p>}
    </div>
  )
}
