/** Labels of an object, as text that can be copied into a selector. */
import type { Labels } from '~/api/types'

export function LabelList({ labels, onPick }: { labels: Labels | undefined; onPick?: (key: string, value: string) => void }) {
  const pairs = Object.entries(labels ?? {})
  if (pairs.length === 0) return <span className="text-muted">no labels</span>
  return (
    <span className="flex flex-wrap gap-1">
      {pairs.map(([key, value]) => {
        const text = (
          <>
            <span className="text-muted">{key}=</span>
            {value}
          </>
        )
        const look = 'rounded border border-line bg-sunken px-1.5 font-mono text-xs'
        return onPick ? (
          <button key={key} type="button" onClick={() => onPick(key, value)} className={`${look} hover:border-line-strong hover:bg-hover`}>
            {text}
          </button>
        ) : (
          <span key={key} className={look}>
            {text}
          </span>
        )
      })}
    </span>
  )
}
