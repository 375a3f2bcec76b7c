/** How many devices are in each state; a press on one filters by it. */
import type { DeviceSummary } from '~/api/types'
import { cx } from '~/ui/cx'
import { Glyph } from '~/ui/mark'
import { count } from '~/ui/number'
import { LOOKS, look, type Dimension } from '~/ui/state'

import { toggle, type Filters } from './filters'

/** Words that are always worth a place, even at 0; others appear when there are some. */
const ALWAYS: Record<Dimension, readonly string[]> = {
  reachability: ['online', 'stale', 'offline'],
  health: ['healthy', 'degraded', 'failing'],
  conformance: ['conforming', 'converging', 'diverged', 'held'],
  lifecycle: ['pending'],
}

interface Props {
  summary: DeviceSummary | undefined
  filters: Filters
  onChange: (filters: Filters) => void
}

export function Facets({ summary, filters, onChange }: Props) {
  return (
    <div className="panel relative flex gap-x-4 px-1 max-sm:overflow-x-auto sm:flex-wrap" role="group" aria-label="Devices by state">
      {(Object.keys(ALWAYS) as Dimension[]).map((dimension) => {
        const words = Object.keys(LOOKS[dimension]).filter(
          (word) => ALWAYS[dimension].includes(word) || (dimension !== 'lifecycle' && (summary?.[dimension][word] ?? 0) > 0) || filters[dimension] === word,
        )
        return (
          <fieldset key={dimension} className="flex items-center py-1">
            <legend className="sr-only">{dimension}</legend>
            {words.map((word) => {
              const n = summary?.[dimension][word] ?? 0
              const { shape, tone } = look(dimension, word)
              const on = filters[dimension] === word
              return (
                <button
                  key={word}
                  type="button"
                  aria-pressed={on}
                  onClick={() => onChange(toggle(filters, dimension, word))}
                  className={cx(
                    'flex h-7 items-center gap-1.5 rounded px-1.5 whitespace-nowrap transition-colors hover:bg-hover',
                    on && 'bg-accent-soft',
                  )}
                >
                  <Glyph shape={shape} tone={n > 0 ? tone : 'quiet'} />
                  <span className={cx('font-medium', n === 0 && 'text-muted')}>{summary ? count(n) : '–'}</span>
                  <span className="text-muted">{word}</span>
                </button>
              )
            })}
          </fieldset>
        )
      })}
    </div>
  )
}
