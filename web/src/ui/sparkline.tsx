/** A line as small as a word: CPU over the last hour. */

const WIDTH = 76
const HEIGHT = 18

export function Sparkline({ values, max = 1 }: { values: readonly (number | null)[]; max?: number }) {
  const step = WIDTH / Math.max(1, values.length - 1)
  let path = ''
  let area = ''
  let left = 0
  let pen = false
  values.forEach((value, i) => {
    if (value === null) {
      if (pen) area += `L${((i - 1) * step).toFixed(1)} ${HEIGHT}L${left.toFixed(1)} ${HEIGHT}Z`
      pen = false
      return
    }
    if (!pen) left = i * step
    const y = HEIGHT - 1.5 - (Math.min(value, max) / max) * (HEIGHT - 3)
    const point = `${pen ? 'L' : 'M'}${(i * step).toFixed(1)} ${y.toFixed(1)}`
    path += point
    area += point
    pen = true
  })
  if (pen) area += `L${WIDTH} ${HEIGHT}L${left.toFixed(1)} ${HEIGHT}Z`
  return (
    <svg width={WIDTH} height={HEIGHT} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true" className="shrink-0 text-accent">
      <path d={`M0 ${HEIGHT - 0.5}H${WIDTH}`} stroke="var(--line)" />
      <path d={area} fill="var(--accent-soft)" />
      <path d={path} fill="none" stroke="currentColor" strokeWidth="1.2" strokeLinejoin="round" />
    </svg>
  )
}
