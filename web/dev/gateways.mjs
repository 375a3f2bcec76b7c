/** Gateways of the demonstration fleet, and what their sensors measure. */

const MINUTE = 60_000

/** The gateways among these devices: one that is up to date, one that drains a backlog, one that is away, one that lost something. */
export function gateways(devices, first) {
  const some = [first, ...devices.filter((d) => d.metadata.name.startsWith('gw-') && d !== first).slice(0, 3)].filter(Boolean)
  return some.map((device, n) => gateway(device, n))
}

function gateway(device, n) {
  const now = Date.now()
  const backlog = [140, 2_418_332, 18_200, 0][n] ?? 0
  const stream = (name, kind, points) => ({ stream: name, class: kind, points, batches: Math.ceil(points / 9000), bytes: Math.round(points * 0.9), refusedBatches: 0, newestAt: now - 4000, lastAt: now - 3000 })
  return {
    device: device.metadata.uid,
    deviceName: device.metadata.name,
    location: device.spec.location,
    epoch: '5c3f0a9e77d10b42',
    reportedAt: now - [12_000, 20_000, 47 * MINUTE, 31_000][n],
    report: {
      backlogPoints: backlog,
      backlogBytes: Math.round(backlog * 1.1),
      ...(backlog > 0 ? { oldestUnsentAt: now - [9_000, 260 * MINUTE, 55 * MINUTE, 0][n], drainSeconds: [1, 412, undefined, 0][n] } : { drainSeconds: 0 }),
      lostPoints: 0,
      refusedBatches: 0,
      ...(n === 2 ? { lastError: 'the control plane can’t be reached: 10.0.0.1:8443 took too long' } : {}),
      streams: [{ name: 'data/default', class: 'telemetry', backlogPoints: backlog, backlogBytes: Math.round(backlog * 1.1) }],
      ...(n < 3 ? { processing: processing(n) } : {}),
    },
    receivedPoints: 38_410_220 + n * 9_000_111,
    receivedBatches: 4_100 + n * 77,
    receivedBytes: 34_900_000 + n * 8_000_000,
    refusedBatches: 0,
    lastBatchAt: now - 3000,
    newestAt: now - 4000,
    lostPoints: n === 3 ? 120_400 : 0,
    losses: n === 3 ? [{ stream: 'data/default', reason: 'drop-oldest', times: 12, points: 120_400, from: now - 3000 * MINUTE, to: now - 2400 * MINUTE, lastAt: now - 2300 * MINUTE }] : [],
    streams: [stream('data/default', 'telemetry', 30_000_000), stream('journal/losses', 'alert', 48)],
  }
}

const DAY = 24 * 60 * MINUTE

const key = (uid, name, device, location, lifetimeSeconds, lastUsedAt) => ({
  apiVersion: 'farshore.dev/v1',
  kind: 'GatewayKey',
  metadata: { uid, name, labels: {}, resourceVersion: 1, managedBy: 'api', createdAt: Date.now() - 3 * DAY },
  spec: { device, location, lifetimeSeconds },
  status: { expiresAt: Date.now() + lifetimeSeconds * 1000, ...(lastUsedAt ? { lastUsedAt } : {}) },
})

/** Keys of gateways that are not claimed. */
export const gatewayKeys = [
  key('018f-key-1', 'hall-7-spring', 'hall-7', 'riga-1', (87 * DAY) / 1000, Date.now() - 40_000),
  key('018f-key-2', 'silo-2-spring', 'silo-2', 'oslo-2', (12 * DAY) / 1000),
]

/** The key itself is in the answer only. */
export function makeKey(body, uid) {
  const made = key(uid, body.metadata.name, body.spec.device, body.spec.location, body.spec.lifetimeSeconds)
  gatewayKeys.unshift(made)
  return { ...made, status: { ...made.status, key: 'fsgk_eyJ2IjoxLCJ1cmwiOiJodHRwczovL2ZsZWV0LmV4YW1wbGUi' } }
}

export function revokeKey(uid) {
  const at = gatewayKeys.findIndex((k) => k.metadata.uid === uid)
  if (at >= 0) gatewayKeys.splice(at, 1)
}

const SERIES = [
  ['temp-01', 'value', { location: 'warehouse-A', unit: 'celsius' }, (t) => -4 + 3 * Math.sin(t / 9e5) + noise(t, 0.3)],
  ['climate', 'humidity', { room: 'a' }, (t) => 47 + 6 * Math.sin(t / 15e5) + noise(t, 1)],
  ['press', 'bar', { line: '3' }, (t) => 101.3 + noise(t, 0.05)],
  ['belt', 'speed', {}, (t) => (Math.floor(t / 6e5) % 5 === 0 ? 0 : 1.2 + noise(t, 0.02))],
]

const noise = (t, size) => ((Math.sin(t * 12.9898) * 43758.5453) % 1) * size

/** The gateways that a query selects, with their place among all. */
const asked = (query, all) =>
  all
    .map((gateway, n) => ({ gateway, n }))
    .filter(({ gateway }) => (!query.get('location') || gateway.location === query.get('location')) && (!query.get('device') || [gateway.device, gateway.deviceName].includes(query.get('device'))))

/** The second gateway has two rooms; the third is away since three quarters of an hour; the fourth said nothing for a while. */
const own = (n) => (n === 1 ? [...SERIES, ['climate', 'humidity', { room: 'b' }, (t) => 61 + 3 * Math.sin(t / 11e5) + noise(t, 1)]] : SERIES)
const silent = (n, t, now) => (n === 2 && t > now - 47 * MINUTE) || (n === 3 && t > now - 31 * MINUTE && t < now - 22 * MINUTE)

/** Ranges of series, put together as the server does it. */
export function series(query, all) {
  const [from, to, step] = ['from', 'to', 'step'].map((name) => Number(query.get(name)))
  const by = query.get('by') ?? 'series'
  const aggregate = query.get('aggregate') ?? 'mean'
  const fold = { min: (v) => Math.min(...v), max: (v) => Math.max(...v), sum: (v) => v.reduce((a, b) => a + b, 0), count: (v) => v.length * Math.ceil(step / 5000), last: (v) => v.at(-1) }[aggregate] ?? ((v) => v.reduce((a, b) => a + b, 0) / v.length)
  const first = Math.ceil(from / step) * step
  const times = Array.from({ length: Math.max(0, Math.floor((to - first) / step) + 1) }, (_, i) => first + i * step)
  const lines = new Map()
  for (const { gateway, n } of asked(query, all)) {
    for (const [measurement, field, tags, of] of own(n)) {
      if ((query.get('measurement') ?? measurement) !== measurement || (query.get('field') ?? field) !== field) continue
      const { device, deviceName, location } = gateway
      const shared = { all: {}, location: { location }, device: { device, deviceName, location }, series: { device, deviceName, location, tags, stream: 'data/default' } }[by]
      const line = { measurement, field, ...shared }
      const key = JSON.stringify(line)
      const cells = lines.get(key)?.cells ?? new Map()
      lines.set(key, { line, cells })
      for (const t of times) if (!silent(n, t, to)) cells.set(t, [...(cells.get(t) ?? []), of(t + n * 7e5) + (n === 0 ? 0 : n * 0.8)])
    }
  }
  const items = [...lines.values()].map(({ line, cells }) => ({ ...line, at: [...cells.keys()].toSorted((a, b) => a - b), values: [...cells].toSorted(([a], [b]) => a - b).map(([, v]) => Number(fold(v).toFixed(3))) }))
  return { from, to, stepMs: step, aggregate, by, items, truncated: false }
}

export function latest(query, all) {
  return asked(query, all).flatMap(({ gateway, n }) => {
    const { device, deviceName, location } = gateway
    const at = Date.now() - 4000
    const numbers = own(n).map(([measurement, field, tags, of]) => ({ measurement, field, tags, kind: 'float', value: of(at) }))
    return [...numbers, { measurement: 'door', field: 'state', tags: {}, kind: 'text', value: 'closed' }].map((one) => ({ name: `${one.measurement} ${one.field}`, device, deviceName, location, stream: 'data/default', at, ...one }))
  })
}

const sink = (uid, name, spec, status) => ({
  apiVersion: 'farshore.dev/v1',
  kind: 'Sink',
  metadata: { uid, name, labels: {}, resourceVersion: 1, managedBy: 'api', createdAt: Date.now() - 3 * DAY },
  spec: { enabled: true, streams: [], measurements: [], start: 'now', ...spec },
  status: { state: 'running', secretSet: true, waitingBatches: 0, deliveredBatches: 0, deliveredPoints: 0, skippedBatches: 0, attempts: 0, ...status },
})

/** One that runs, one whose receiver is away, one that writes files, one that is off. */
export const sinks = [
  sink('018f-sink-1', 'plant-history', { type: 'webhook', webhook: { url: 'https://history.example.com/readings' } }, { deliveredBatches: 81_204, deliveredPoints: 9_130_441, skippedBatches: 2, lastDeliveredAt: Date.now() - 4_000 }),
  sink('018f-sink-2', 'collector', { type: 'otlp', otlp: { url: 'https://otel.example.com:4318/v1/metrics' } }, { state: 'failing', waitingBatches: 418, deliveredBatches: 70_100, deliveredPoints: 8_000_120, attempts: 9, lastError: 'the receiver answered 503 Service Unavailable', lastErrorAt: Date.now() - 50_000, nextAt: Date.now() + 190_000, lastDeliveredAt: Date.now() - 26 * MINUTE }),
  sink('018f-sink-3', 'lake', { type: 'parquet', parquet: { everySeconds: 3600, keepDays: 400 } }, { secretSet: false, waitingBatches: 96, deliveredBatches: 12_000, deliveredPoints: 88_412_000, folder: 'artifacts/parquet/0198c3/0199aa', lastDeliveredAt: Date.now() - 31 * MINUTE }),
  sink('018f-sink-4', 'old-lake', { type: 'parquet', enabled: false, parquet: { everySeconds: 3600, keepDays: 30 } }, { state: 'disabled', secretSet: false, folder: 'artifacts/parquet/0198c3/0199ab' }),
]

const PIPELINES = `pipelines:
  - name: cold-room
    from:
      measurements: ["temp-*"]
    steps:
      - filter: value > -60 && value < 100
      - enrich: {labels: [site]}
      - rule:
          name: too-warm
          raise: value > 8
          clear: value < 6
          for: 30s
      - window: {tumbling: 10s, lateness: 5s, aggregates: [mean, p95]}
      - emit: {stream: data/climate}
`

const step = (kind, taken, passed, more = {}) => ({ kind, taken, passed, late: 0, dropped: 0, cut: 0, raised: 0, openWindows: 0, ...more })

/** One that runs what is set, one that does not take it, one with a file of its own. */
function processing(n) {
  const points = 184_220 + Math.floor((Date.now() / 1000) % 100_000)
  return {
    ...[{ source: 'control-plane', config: 'cold-rooms', digest: `sha256:${'a'.repeat(64)}` }, { source: 'control-plane', config: 'all-gateways', digest: `sha256:${'b'.repeat(64)}`, refused: { digest: `sha256:${'a'.repeat(64)}`, why: 'pipelines[0].steps[3]: unknown field `lateness`, expected one of `tumbling`, `aggregates` at line 13 column 26' } }, { source: 'file' }][n],
    points,
    backlog: 12,
    series: 40,
    late: 31,
    dropped: n === 1 ? 4 : 0,
    alertsRaised: 7,
    alertsCleared: 6,
    messages: 13,
    calls: 7,
    callsFailed: n === 1 ? 2 : 0,
    written: 18_400,
    lost: 0,
    pipelines: [{ name: 'cold-room', activeAlerts: n === 0 ? 1 : 0, steps: [step('filter', points, points - 12), step('enrich', points - 12, points - 12), step('rule', points - 12, points - 12, { raised: 7 }), step('window', points - 12, 18_400, { late: 31, openWindows: 40 }), step('emit', 18_400, 18_400)] }],
  }
}

/** How the pipelines of a device stand. */
export function pipelines(device, all) {
  const n = all.findIndex((gateway) => gateway.device === device.metadata.uid)
  if (n < 0 || n > 2) return { device: device.metadata.uid, deviceName: device.metadata.name, state: 'none' }
  return {
    device: device.metadata.uid,
    deviceName: device.metadata.name,
    state: ['running', 'refused', 'own'][n],
    ...(n < 2 ? { wanted: { config: 'cold-rooms', layer: 'selector', resourceVersion: 3, digest: `sha256:${'a'.repeat(64)}`, text: PIPELINES } } : {}),
    running: processing(n),
    reportedAt: Date.now() - 4000,
  }
}

const config = (uid, name, spec, resourceVersion = 1) => ({
  apiVersion: 'farshore.dev/v1',
  kind: 'Config',
  metadata: { uid, name, labels: {}, resourceVersion, managedBy: 'api', createdAt: Date.now() - 3 * DAY },
  spec: { values: {}, ...spec },
  status: {},
})

/** Configs that hold pipelines. */
export const pipelineConfigs = [config('018f-cfg-1', 'cold-rooms', { selector: 'room=cold', gateway: { pipelines: PIPELINES } }, 3), config('018f-cfg-2', 'all-gateways', { gateway: { pipelines: 'pipelines: []\n' } })]

/** As the server does: what is not good is refused with line and reason. */
export function writeConfig(list, body, uid) {
  const line = (body.spec.gateway?.pipelines ?? '').split('\n').findIndex((text) => text.includes('valeu')) + 1
  if (line > 0) return { errors: [{ field: 'spec.gateway.pipelines', message: `pipelines[0].steps[0].filter: there is no valeu; did you mean value? at line ${line} column 17` }] }
  const before = list.findIndex((one) => one.metadata.uid === uid || one.metadata.name === body.metadata.name)
  const made = config(before < 0 ? uid : list[before].metadata.uid, body.metadata.name, body.spec, before < 0 ? 1 : list[before].metadata.resourceVersion + 1)
  if (before < 0) list.push(made)
  else list[before] = made
  return { made }
}
