/** An invented fleet for developing the page: the same one each time. */

/** Mulberry32: small, seeded, good enough for invented figures. */
export function random(seed) {
  let a = seed >>> 0
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

const rnd = random(7)
const pick = (list) => list[Math.floor(rnd() * list.length)]
const hex = (n) => Array.from({ length: n }, () => Math.floor(rnd() * 16).toString(16)).join('')
export const uid = () => `0199${hex(4)}-${hex(4)}-7${hex(3)}-a${hex(3)}-${hex(12)}`
export const digest = () => `sha256:${hex(64)}`

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
export const start = Date.now()

const meta = (kind, name, labels, age = 3 * DAY) => ({
  apiVersion: 'farshore.dev/v1',
  kind,
  metadata: { uid: uid(), name, ...(labels ? { labels } : {}), resourceVersion: 1 + Math.floor(rnd() * 900), managedBy: '', createdAt: start - age },
})

const PLACES = [
  ['riga-1', 1400], ['riga-2', 900], ['tallinn-1', 1100], ['vilnius-1', 950], ['kaunas-1', 600], ['tartu-1', 420], ['helsinki-1', 1300],
  ['turku-1', 380], ['stockholm-1', 800], ['malmo-1', 350], ['warsaw-1', 900], ['gdansk-1', 500], ['depot', 400],
]
const MODELS = [['kiosk', 'Raspberry Pi 5', 'arm64', 4, 8], ['till', 'Intel NUC 12', 'amd64', 8, 16], ['panel', 'Raspberry Pi 4', 'arm64', 4, 4], ['gw', 'Jetson Orin Nano', 'arm64', 6, 8]]

function manifest(app, version, arch = ['amd64', 'arm64']) {
  return {
    schema: 'farshore.dev/release/v1', tenant: 'northwind', app, version, ...(version === '1.1.0' ? { floor: '1.0.0' } : {}),
    platforms: arch.map((a) => ({ os: 'linux', arch: a, artifact: { digest: digest(), size: 3_400_000 + Math.floor(rnd() * 900_000), format: 'tar.zst' } })),
    run: { command: ['bin/edge-web-service', '--port', '${PORT}'], ...(app === 'edge-web' ? { slots: { blue: 8081, green: 8082, switch: ['bin/switch'], timeoutSeconds: 30 } } : { env: { PORT: '8080' } }), limits: { memoryBytes: 128 * 1024 * 1024, cpuMillis: 500 } },
    health: [{ name: 'http', probe: { type: 'http', port: '$PORT', path: '/healthz' }, intervalSeconds: 5, timeoutSeconds: 2, failureThreshold: 3 }],
    restart: { backoffMs: 500, maxBackoffMs: 60000, maxRestarts: 3 }, soakSeconds: 10, startTimeoutSeconds: 60,
  }
}
const KEY = hex(64)
export const releases = [['edge-web', '1.1.0', 2 * HOUR], ['edge-web', '1.0.0', 6 * DAY], ['edge-web', '0.9.2', 30 * DAY], ['price-sync', '2.4.1', 9 * DAY], ['price-sync', '2.4.0', 20 * DAY]].map(([app, version, age]) => ({
  ...meta('Release', `${app}-${version.replaceAll('.', '-')}`, undefined, age),
  spec: { manifest: manifest(app, version), manifestDigest: digest(), signedBy: KEY, keyName: 'release-2026', signedManifest: { manifest: 'eyJ9', signature: 'MEUC' } },
  status: {},
}))
export const artifacts = releases.flatMap((r) => r.spec.manifest.platforms.map((p) => ({
  digest: p.artifact.digest, size: p.artifact.size, name: `${r.spec.manifest.app}-${r.spec.manifest.version}-${p.arch}.tar.zst`, createdAt: r.metadata.createdAt - 4 * MINUTE, releases: [r.metadata.name],
})))
const byVersion = (app, version) => releases.find((r) => r.spec.manifest.app === app && r.spec.manifest.version === version)
const desired = (r) => ({ uid: r.metadata.uid, version: r.spec.manifest.version, manifest: r.spec.manifestDigest })

export const apps = [['edge-web', 'The page that kiosks show'], ['price-sync', 'Keeps prices of tills up to date']].map(([n, description]) => ({ ...meta('App', n), spec: { description }, status: {} }))
export const placements = [['edge-web-everywhere', 'edge-web', 'role in (kiosk,panel)'], ['price-sync-tills', 'price-sync', 'role=till']].map(([n, app, selector]) => ({ ...meta('Placement', n), spec: { app, selector }, status: {} }))
export const channels = [['dev', '1.1.0'], ['canary', '1.1.0'], ['prod', '1.0.0']].map(([n, v]) => ({
  ...meta('Channel', n), spec: { description: '' },
  status: { releases: [['edge-web', v], ['price-sync', '2.4.1']].map(([app, version]) => ({ app, release: byVersion(app, version).metadata.uid, version })) },
}))
export const pins = [{ ...meta('Pin', 'kiosk-0012-edge-web'), spec: { device: 'kiosk-0012', app: 'edge-web', version: '0.9.2', reason: 'touch driver, ticket 812' }, status: {} }]
export const configs = []

export const rolloutUid = uid()
export const failedUid = uid()
const ROLLOUT = 'edge-web-1-1-prod'

function makeDevice(i, location) {
  const [role, model, arch, cpus, gib] = MODELS[i % 4 === 3 ? (i % 40 === 3 ? 3 : 0) : i % 3]
  const name = `${role}-${String(i).padStart(4, '0')}`
  const r = rnd()
  const reachability = location === 'tartu-1' && r < 0.4 ? 'offline' : r < 0.955 ? 'online' : r < 0.968 ? 'stale' : 'offline'
  const h = rnd()
  const health = reachability === 'offline' ? 'unknown' : h < 0.978 ? 'healthy' : h < 0.991 ? 'degraded' : 'failing'
  const c = rnd()
  const conformance = c < 0.955 ? 'conforming' : c < 0.98 ? 'converging' : c < 0.988 ? 'diverged' : c < 0.997 ? 'held' : 'unsupported'
  const channel = i % 50 === 0 ? 'dev' : i % 17 === 0 ? 'canary' : 'prod'
  const lifecycle = i % 997 === 5 ? 'pending' : i % 800 === 9 ? 'cordoned' : 'claimed'
  const silent = reachability === 'online' ? rnd() * 25_000 : reachability === 'stale' ? 60_000 + rnd() * 200_000 : 10 * MINUTE + rnd() * 4 * DAY
  const app = role === 'till' ? 'price-sync' : 'edge-web'
  const now = byVersion(app, app === 'edge-web' ? (channel === 'prod' ? '1.0.0' : '1.1.0') : '2.4.1')
  const next = app === 'edge-web' && conformance === 'converging' ? byVersion('edge-web', '1.1.0') : now
  const held = conformance === 'held'
  const reasons = []
  if (held) reasons.push({ code: 'RolledBack', message: `${app} 1.1.0 did not pass its check http in 60 s; went back to 1.0.0`, since: start - 22 * MINUTE })
  if (health === 'failing') reasons.push({ code: 'CheckFailed', message: `check http of ${app} answered 503 three times`, since: start - 6 * MINUTE })
  if (health === 'degraded') reasons.push({ code: 'Restarts', message: `${app} was restarted 2 times in the last hour`, since: start - 31 * MINUTE })
  if (reachability !== 'online') reasons.push({ code: 'Silent', message: 'no heartbeat', since: start - silent })
  if (conformance === 'converging') reasons.push({ code: 'Rollout', message: `takes ${app} 1.1.0 with rollout ${ROLLOUT}, wave 2`, since: start - 3 * MINUTE })
  const cpu = 0.04 + rnd() * rnd() * 0.7
  return {
    ...meta('Device', name, { role, store: location.replace('-', '-s'), ...(i % 9 === 0 ? { 'power': 'solar' } : {}) }, 40 * DAY),
    spec: { channel, location, driver: 'agent' },
    status: {
      reachability, health, conformance, lifecycle, reasons, lastSeenAt: lifecycle === 'pending' ? undefined : start - silent, agentVersion: '0.1.0',
      capabilities: ['process', 'psi', 'live-metrics'],
      senses: senses(i % 4 !== 3),
      hardware: { hostname: name, os: 'linux', arch, variant: '', kernel: '6.1.0-28', osName: 'Debian GNU/Linux 12 (bookworm)', model, cpus, memoryBytes: gib * 1024 ** 3 },
      accepted: { epoch: 1, generation: 14 }, desired: { epoch: 1, generation: conformance === 'converging' ? 15 : 14 },
      certificateExpiresAt: start + (reachability === 'offline' ? 2 : 14) * HOUR,
      apps: lifecycle === 'pending' ? [] : [{
        app, phase: held ? 'held' : health === 'failing' ? 'failing' : conformance === 'converging' ? pick(['downloading', 'staged', 'soaking']) : 'running',
        health: health === 'unknown' ? 'unknown' : health, desired: desired(held ? byVersion('edge-web', '1.1.0') ?? next : next),
        because: i === 12 ? { source: 'pin', pin: 'kiosk-0012-edge-web' } : conformance === 'converging' ? { source: 'rollout', rollout: rolloutUid, name: ROLLOUT, wave: 2, forward: true } : { source: 'channel', channel },
        activeRelease: now.metadata.uid, activeVersion: now.spec.manifest.version, ...(held ? { failedRelease: byVersion('edge-web', '1.1.0').metadata.uid } : {}),
        ...(i % 5 === 4 ? {} : { isolation: i % 2 ? {} : { pid: 'private', readOnlyRoot: true, privateTmp: true, maskedPaths: ['/home'], seccomp: 'default' } }),
        committed: conformance !== 'converging', restarts: health === 'healthy' ? 0 : 2,
        reasons: held ? [{ code: 'CheckFailed', message: 'GET http://127.0.0.1:8080/healthz answered 503', since: start - 22 * MINUTE }] : [],
        ...(reachability === 'offline' ? {} : { usage: { at: start - 90_000, values: { cpu: 0.031, mem_used: 18_450_000, processes: 3, io_read: 0, io_write: 2_300 } } }),
        config: {
          PORT: { value: '8080', layer: 'app', from: 'edge-web-defaults' }, GREETING: { value: 'Labdien', layer: 'selector', from: 'baltics' },
          LOG_LEVEL: { value: 'info', layer: 'tenant', from: 'everything' }, SCREEN: { value: 'portrait', layer: 'device', from: name },
        },
      }],
      latest: lifecycle === 'pending' ? {} : { cpu, mem_used: (0.2 + rnd() * 0.5) * gib * 1024 ** 3, mem_total: gib * 1024 ** 3, load1: cpu * cpus, disk_used: 9e9, disk_total: 3.1e10, uptime: 812_000, temperature: 51.5 },
      _cpu: cpu,
    },
  }
}

export function makeDevices(count) {
  const out = []
  let i = 0
  const total = PLACES.reduce((sum, [, n]) => sum + n, 0)
  for (const [location, share] of PLACES) {
    for (let n = 0; n < Math.round((share / total) * count); n++) out.push(makeDevice(i++, location))
  }
  while (out.length < count) out.push(makeDevice(i++, 'depot'))
  return out.toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))
}

export function sparkline(device) {
  const r = random(device.metadata.name.length * 131 + device.metadata.name.charCodeAt(device.metadata.name.length - 1) * 7 + Math.floor(device.status._cpu * 1e6))
  let value = device.status._cpu
  return Array.from({ length: 30 }, () => {
    value = Math.max(0.01, Math.min(1, value + (r() - 0.5) * 0.12 + (device.status._cpu - value) * 0.2))
    return device.status.lifecycle === 'pending' ? null : Number(value.toFixed(3))
  })
}

const zero = { waiting: 0, updating: 0, ok: 0, failed: 0, unreachable: 0, rollingBack: 0, rolledBack: 0, excluded: 0 }
const spec = { app: 'edge-web', channel: 'prod', release: 'edge-web@1.1.0', waves: [{ percent: 1, soakSeconds: 600 }, { percent: 5, soakSeconds: 600 }, { percent: 25, soakSeconds: 600 }, { percent: 100, soakSeconds: 600 }], failureThreshold: 30, maxUnavailable: '2%', onFailure: 'rollback' }
const known = (version) => ({ uid: byVersion('edge-web', version).metadata.uid, version })

function rollout(name, id, status, age) {
  const object = meta('Rollout', name, undefined, age)
  object.metadata.uid = id
  const { history, ...rest } = status
  const summary = { uid: id, name, app: spec.app, channel: name.split('-').at(-1), createdAt: object.metadata.createdAt, ...rest }
  const waiting = summary.phase === 'running' ? [{ reason: { code: 'Reports', message: '2 devices of wave 2 to report', since: start - 4 * MINUTE }, owner: 'device', until: start + 9 * MINUTE }] : summary.phase === 'paused' ? [{ reason: { code: 'Paused', message: 'somebody to resume or abort it', since: start - 40 * MINUTE }, owner: 'operator', until: start + 6 * DAY }] : []
  Object.assign(object, { spec: { ...spec, channel: summary.channel, release: `edge-web@${status.to.version}` }, status: { summary, waiting, history } })
  return object
}

const wave = (number, size, from, to, state, counts, extra = {}) => {
  const all = { ...zero, ...counts }
  const failed = extra.failed ?? all.failed
  const reported = extra.reported ?? all.ok + all.failed
  return { number, size, fromPercent: from, toPercent: to, soakSeconds: 600, state, counts: all, failed, reported, ...(reported > 0 ? { failureRatio: failed / reported } : {}), ...extra }
}

export const rollouts = [
  rollout(ROLLOUT, rolloutUid, {
    from: known('1.0.0'), to: known('1.1.0'), activation: 'blue-green', phase: 'running', phaseSince: start - 82 * MINUTE, startedAt: start - 82 * MINUTE, population: 240, wave: 2,
    waves: [
      wave(1, 3, 0, 1, 'passed', { ok: 3 }, { startedAt: start - 82 * MINUTE, finishedAt: start - 61 * MINUTE }),
      wave(2, 12, 1, 5, 'running', { ok: 7, failed: 1, updating: 2, waiting: 1, unreachable: 1 }, { startedAt: start - 61 * MINUTE }),
      wave(3, 48, 5, 25, 'waiting', { waiting: 45, unreachable: 2, excluded: 1 }),
      wave(4, 177, 25, 100, 'waiting', { waiting: 171, unreachable: 5, excluded: 1 }),
    ],
    counts: { ...zero, ok: 10, failed: 1, updating: 2, waiting: 217, unreachable: 8, excluded: 2 }, failureRatio: 0.125, threshold: 0.3, inFlight: 2, budget: 4,
    reasons: [{ code: 'WaitingForReports', message: 'wave 2 waits for 3 devices: 2 are updating, 1 waits for a place in the budget', since: start - 4 * MINUTE }, { code: 'Unreachable', message: '1 device of the wave is unreachable; the gate opens without it', since: start - 30 * MINUTE }],
    deadline: start + 9 * MINUTE,
    history: [
      { at: start - 83 * MINUTE, what: 'RolloutCreated', who: 'anna@northwind.example', message: 'made by anna@northwind.example' },
      { at: start - 82 * MINUTE, what: 'RolloutStarted', who: 'anna@northwind.example', message: 'started by anna@northwind.example: 240 devices in 4 waves', comment: 'kiosk fix, ticket 845' },
      { at: start - 61 * MINUTE, what: 'WavePassed', who: 'engine', message: 'wave 1 passed: 3 of 3 succeeded' },
      { at: start - 61 * MINUTE, what: 'WaveStarted', who: 'engine', message: 'wave 2 started: 12 devices' },
      { at: start - 24 * MINUTE, what: 'DeviceFailed', who: 'engine', message: 'kiosk-0003 failed: check http answered 503' },
    ],
  }, 83 * MINUTE),
  rollout('edge-web-1-1-canary', failedUid, {
    from: known('0.9.2'), to: known('1.0.0'), phase: 'failed', phaseSince: start - 5 * HOUR, startedAt: start - 6 * HOUR, finishedAt: start - 5 * HOUR, population: 60, wave: 1,
    waves: [wave(1, 15, 0, 25, 'halted', { rolledBack: 13, failed: 2 }, { startedAt: start - 6 * HOUR, finishedAt: start - 5.6 * HOUR, failed: 5, reported: 15 }), wave(2, 45, 25, 100, 'waiting', { waiting: 45 })],
    counts: { ...zero, rolledBack: 13, failed: 2, waiting: 45 }, failureRatio: 5 / 15, threshold: 0.3, inFlight: 0, budget: 15,
    reasons: [{ code: 'Halted', message: 'halted in wave 1: 5 of 15 failed (33 %), threshold 30 %; 13 devices have 0.9.2 again, 2 could not go back', since: start - 5 * HOUR }],
    history: [
      { at: start - 6 * HOUR, what: 'RolloutStarted', who: 'ci', message: 'started by ci: 60 devices in 2 waves' },
      { at: start - 5.6 * HOUR, what: 'WaveHalted', who: 'engine', message: 'wave 1 halted: 5 of 15 failed (33 %), threshold 30 %' },
      { at: start - 5 * HOUR, what: 'RolloutFailed', who: 'engine', message: 'everyone who can be reached has 0.9.2 again' },
    ],
  }, 6 * HOUR),
  rollout('edge-web-1-0-prod', uid(), {
    from: known('0.9.2'), to: known('1.0.0'), phase: 'succeeded', phaseSince: start - 2 * DAY, startedAt: start - 3 * DAY, finishedAt: start - 2 * DAY, population: 238, wave: 3,
    waves: [wave(1, 12, 0, 5, 'passed', { ok: 12 }, { startedAt: start - 3 * DAY, finishedAt: start - 2.9 * DAY }), wave(2, 48, 5, 25, 'passed', { ok: 47, unreachable: 1 }, { startedAt: start - 2.9 * DAY, finishedAt: start - 2.6 * DAY }), wave(3, 178, 25, 100, 'passed', { ok: 174, unreachable: 4 }, { startedAt: start - 2.6 * DAY, finishedAt: start - 2 * DAY })],
    counts: { ...zero, ok: 233, unreachable: 5 }, failureRatio: 0, threshold: 0.3, inFlight: 0, budget: 4, reasons: [], history: [],
  }, 3 * DAY),
  rollout('edge-web-1-1-dev', uid(), {
    from: known('1.0.0'), to: known('1.1.0'), phase: 'paused', phaseSince: start - 40 * MINUTE, startedAt: start - 50 * MINUTE, population: 20, wave: 1, pause: { at: start - 40 * MINUTE, by: 'engine', why: 'inconclusive' },
    waves: [wave(1, 5, 0, 25, 'running', { ok: 1, unreachable: 4 }, { startedAt: start - 50 * MINUTE }), wave(2, 15, 25, 100, 'waiting', { waiting: 15 })],
    counts: { ...zero, ok: 1, unreachable: 4, waiting: 15 }, failureRatio: 0, threshold: 0.3, inFlight: 0, budget: 5,
    reasons: [{ code: 'Inconclusive', message: 'gate of wave 1 had too little evidence: 1 of 5 devices reported', since: start - 40 * MINUTE }], deadline: start + 6 * DAY, history: [],
  }, HOUR),
]

export const tokens = [['till-batch', 3, 25, 20 * HOUR, false], ['lab', 1, 1, -2 * HOUR, false], ['old-depot', 4, 10, 5 * HOUR, true]].map(([n, used, uses, left, revoked]) => ({
  ...meta('ClaimToken', n, undefined, 4 * HOUR), spec: { labels: { role: 'till' }, channel: 'prod', location: 'riga-1', lifetimeSeconds: 86400, uses }, status: { used, expiresAt: start + left, revoked },
}))
export const users = [['anna', 'tenant-admin', 2 * MINUTE], ['ops', 'operator', 5 * HOUR], ['wall', 'viewer', undefined]].map(([n, role, ago]) => ({
  ...meta('User', n), spec: { email: `${n}@northwind.example`, role }, status: ago === undefined ? {} : { lastLoginAt: start - ago },
}))

let sequence = 48_210
export const event = (type, subject, message, actor = 'engine', at = Date.now()) => ({ uid: uid(), sequence: ++sequence, at, type, subject, actor, message, payload: {} })

/** The last seven days of a device's connectivity: an outage of a night, a short one, and silence where it is offline. */
export function connectivity(device) {
  const to = Date.now()
  const from = to - 7 * 24 * HOUR
  const seen = device.status.reachability === 'online' ? undefined : (device.status.lastSeenAt ?? from)
  const span = (begin, end, state, message) => ({ from: begin, to: end, state, ...(message ? { message } : {}) })
  const spans = [
    span(from + 6 * HOUR, from + 40 * HOUR, 'online'),
    span(from + 40 * HOUR, from + 47 * HOUR, 'dns', 'cp.northwind.example:8444 has no address: failed to lookup address information'),
    span(from + 47 * HOUR, from + 110 * HOUR, 'online'),
    span(from + 110 * HOUR, from + 110 * HOUR + 9 * MINUTE, 'captive-portal', 'no TLS session: received corrupt message of type InvalidContentType'),
    span(from + 110 * HOUR + 9 * MINUTE, seen ?? to, 'online'),
    ...(seen === undefined ? [] : [span(Math.max(seen, from + 111 * HOUR), to, 'silent')]),
  ].filter((one) => one.to > one.from)
  const known = spans.reduce((sum, one) => sum + one.to - one.from, 0)
  const online = spans.filter((one) => one.state === 'online').reduce((sum, one) => sum + one.to - one.from, 0)
  const last = spans.at(-1)
  return { state: last.state, since: last.from, from, to, onlineShare: online / known, outages: seen === undefined ? 2 : 3, spans, truncated: false }
}

/** Who tells which signal of the kernel: eBPF, or what there is without it. */
function senses(ebpf) {
  const why = 'the kernel has no BTF (/sys/kernel/btf/vmlinux)'
  const told = (by, reason) => (ebpf ? { by: 'ebpf', reason: 'tracepoints' } : { by, reason: `${reason}; ${why}` })
  const unasked = { by: 'none', reason: 'not asked for by the policy' }
  return {
    process_exit: told('netlink', 'process connector'), oom_kill: told('proc', '/proc/vmstat, a number only'), tcp_retransmit: told('proc', '/proc/net/snmp, a number only'),
    io_latency: told('proc', '/proc/diskstats, the mean only'), exec: unasked, connect: unasked, pressure: { by: 'psi', reason: 'triggers: cpu, io, memory' },
  }
}
