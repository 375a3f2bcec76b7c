/** How a plan answers to releases of each badness: chance to halt, and how many devices are touched until then. */
import type { Forecast, RolloutSpec } from '~/api/rollout-types'
import { count, percent } from '~/ui/number'

const WIDTH = 480
const HEIGHT = 130
const PAD = { left: 40, right: 12, top: 10, bottom: 22 }

export function Characteristic({ rows, spec, devices }: { rows: Forecast['operatingCharacteristic']; spec: RolloutSpec; devices: number }) {
  const sorted = rows.toSorted((a, b) => a.failureRate - b.failureRate)
  if (sorted.length === 0) return <p className="px-4 py-3 text-muted">Nothing was simulated for bad releases.</p>
  return (
    <>
      <Curve rows={sorted} acceptable={(spec.acceptableFailureRate ?? 5) / 100} threshold={(spec.failureThreshold ?? 30) / 100} />
      <table className="w-full">
        <thead>
          <tr className="border-y border-line text-left text-sm text-muted">
            <th className="px-4 py-1.5 font-normal">Fails on</th>
            <th className="px-4 py-1.5 text-right font-normal">Chance to halt</th>
            <th className="px-4 py-1.5 text-right font-normal">Touched, median</th>
            <th className="px-4 py-1.5 text-right font-normal">Touched, 95 %</th>
          </tr>
        </thead>
        <tbody className="divide-y divide-line">
          {sorted.map((row) => (
            <tr key={row.failureRate}>
              <td className="px-4 py-1">{percent(row.failureRate)} of devices</td>
              <td className="px-4 py-1 text-right">{percent(row.haltProbability, row.haltProbability > 0 && row.haltProbability < 0.1 ? 1 : 0)}</td>
              <td className="px-4 py-1 text-right">{count(row.devicesTouchedP50)}</td>
              <td className="px-4 py-1 text-right">
                {count(row.devicesTouchedP95)} <span className="text-sm text-muted">of {count(devices)}</span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  )
}

/** The rates lie far apart at the bad end and close at the good one: the axis is the root of the rate. */
const place = (rate: number, most: number): number => PAD.left + Math.sqrt(rate / most) * (WIDTH - PAD.left - PAD.right)
const height = (share: number): number => PAD.top + (1 - share) * (HEIGHT - PAD.top - PAD.bottom)

function Curve({ rows, acceptable, threshold }: { rows: Forecast['operatingCharacteristic']; acceptable: number; threshold: number }) {
  const most = Math.max(threshold, ...rows.map((r) => r.failureRate)) * 1.1
  const path = rows.map((r, i) => `${i === 0 ? 'M' : 'L'}${place(r.failureRate, most).toFixed(1)} ${height(r.haltProbability).toFixed(1)}`).join('')
  return (
    <svg
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      role="img"
      aria-label={`Chance to halt by share of failing devices: ${rows.map((r) => `${percent(r.failureRate)} ${percent(r.haltProbability)}`).join(', ')}`}
      className="block w-full max-w-2xl px-2 pt-2 text-muted"
    >
      {[0, 0.5, 1].map((share) => (
        <g key={share}>
          <path d={`M${PAD.left} ${height(share)}H${WIDTH - PAD.right}`} stroke="var(--line)" />
          <text x={PAD.left - 6} y={height(share) + 3.5} textAnchor="end" fontSize="10" fill="currentColor">
            {percent(share)}
          </text>
        </g>
      ))}
      {rows.map((r) => (
        <text key={r.failureRate} x={place(r.failureRate, most)} y={HEIGHT - 7} textAnchor="middle" fontSize="10" fill="currentColor">
          {percent(r.failureRate)}
        </text>
      ))}
      <path d={`M${place(acceptable, most)} ${PAD.top}V${HEIGHT - PAD.bottom}`} stroke="var(--ok)" strokeDasharray="3 3" />
      <path d={`M${place(threshold, most)} ${PAD.top}V${HEIGHT - PAD.bottom}`} stroke="var(--ink)" />
      <text x={place(threshold, most) - 4} y={HEIGHT - PAD.bottom - 5} textAnchor="end" fontSize="10" fill="currentColor">
        halts at {percent(threshold)}
      </text>
      <text x={place(acceptable, most) + 4} y={PAD.top + 9} fontSize="10" fill="currentColor">
        noise up to {percent(acceptable)}
      </text>
      <path d={path} fill="none" stroke="var(--accent)" strokeWidth="1.6" strokeLinejoin="round" />
      {rows.map((r) => (
        <circle key={r.failureRate} cx={place(r.failureRate, most)} cy={height(r.haltProbability)} r="2.6" fill="var(--accent)" />
      ))}
    </svg>
  )
}
