/** How fresh the page is: `live`, `12 s old`, `reconnecting`. */
import { useLive } from '~/api/live'
import { Hint } from '~/ui/hint'
import { Glyph } from '~/ui/mark'
import type { Shape, Tone } from '~/ui/state'
import { duration, exact, useNow } from '~/ui/time'

/** The server says something at least each 15 s; older than this and a word about it is due. */
const FRESH_MS = 20_000

export function LiveIndicator() {
  const live = useLive()
  const now = useNow('second')
  const age = live.aliveAt === 0 ? undefined : now - live.aliveAt
  let word: string
  let shape: Shape = 'full'
  let tone: Tone = 'ok'
  if (live.state === 'live' && age !== undefined && age < FRESH_MS) {
    word = 'live'
  } else if (live.state === 'live' && age !== undefined) {
    ;[word, shape, tone] = [`${duration(age)} old`, 'half', 'warn']
  } else if (live.state === 'connecting') {
    ;[word, shape, tone] = ['connecting', 'ring', 'quiet']
  } else {
    ;[word, shape, tone] = [age === undefined ? 'no live data' : `${duration(age)} old, reconnecting`, 'ring', 'warn']
  }
  return (
    <Hint
      text={
        age === undefined
          ? 'Changes are not arriving by themselves yet.'
          : `Changes arrive by themselves. Last heard from the server: ${exact(live.aliveAt)}.`
      }
    >
      <span className="flex items-center gap-1.5 px-2 text-sm whitespace-nowrap text-muted" data-testid="live">
        <Glyph shape={shape} tone={tone} size={10} />
        {word}
      </span>
    </Hint>
  )
}
