/**
 * A stand-in for the server, for developing the page and for its visual and accessibility tests. Loopback only; never shipped.
 *
 * `node dev/mock-server.mjs [port]`; serves `dist` too, with the server's own content policy. The cookie `mock` picks a scene:
 * `empty` (nothing there), `error` (every list fails), `slow` (nothing answers), `out` (not logged in).
 */
import { createReadStream, existsSync } from 'node:fs'
import { createServer } from 'node:http'
import { extname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'

import * as fleet from './fleet.mjs'
import * as documents from './documents.mjs'
import * as sensors from './gateways.mjs'
import * as troubles from './incidents.mjs'
import * as operations from './operations.mjs'
import * as policies from './policies.mjs'
import * as rolling from './rollouts.mjs'

const port = Number(process.argv[2] ?? process.env.MOCK_PORT ?? 4199)
const dist = fileURLToPath(new URL('../dist', import.meta.url))
const devices = fleet.makeDevices(Number(process.env.MOCK_DEVICES ?? 10_000))
const CSP = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.json': 'application/json' }

fleet.rollouts.push(...rolling.more)
const { incidents, alerts, silences, rules, routes, deliveries } = troubles.make([devices[3], devices[40], devices[77]])
rolling.grow(fleet.rollouts)

const dev = (d) => ({ kind: 'Device', uid: d.metadata.uid, name: d.metadata.name })
const ro = (r) => ({ kind: 'Rollout', uid: r.metadata.uid, name: r.metadata.name })
const M = 60_000
const ev = (minutes, ...rest) => fleet.event(...rest.slice(0, 3), rest[3] ?? 'engine', fleet.start - minutes * M)
const failing = devices.find((d) => d.status.conformance === 'held') ?? devices[0]
const events = [
  ev(82, 'rollout.started', ro(fleet.rollouts[0]), 'edge-web-1-1-prod started: 240 devices in 4 waves', 'user:anna@northwind.example'),
  ev(61, 'rollout.wave-passed', ro(fleet.rollouts[0]), 'wave 1 passed: 3 of 3 succeeded'),
  ev(58, 'device.release-activated', dev(failing), 'activated edge-web 1.1.0', `device:${failing.metadata.name}`),
  ev(56, 'device.app-failing', dev(failing), 'check http of edge-web answered 503', `device:${failing.metadata.name}`),
  ev(55, 'device.rolled-back', dev(failing), 'went back to edge-web 1.0.0', `device:${failing.metadata.name}`),
  ev(20, 'device.certificate-renewed', dev(failing), 'certificate renewed, good for 24 h', `device:${failing.metadata.name}`),
  ev(6, 'device.offline', dev(devices[40]), 'nothing heard for 5 minutes'),
  ev(2, 'device.claimed', dev(devices[77]), 'claimed with token till-batch', 'token:till-batch'),
].toReversed()

function matches(device, labels) {
  return labels.split(/,(?![^(]*\))/).every((part) => {
    const own = device.metadata.labels ?? {}
    const set = /^(\S+)\s+(in|notin)\s*\(([^)]*)\)$/.exec(part.trim())
    if (set) return set[3].split(',').map((v) => v.trim()).includes(own[set[1]]) === (set[2] === 'in')
    const pair = /^([^!=]+)(!?=)=?(.*)$/.exec(part.trim())
    if (pair) return (own[pair[1]] === pair[3]) === (pair[2] === '=')
    return part.startsWith('!') ? !(part.slice(1) in own) : part.trim() in own
  })
}

function filtered(query) {
  const get = (k) => query.get(k)
  let out = devices.filter(
    (d) =>
      ['reachability', 'health', 'conformance', 'lifecycle'].every((k) => !get(k) || d.status[k] === get(k)) &&
      ['location', 'channel'].every((k) => !get(k) || d.spec[k] === get(k)) &&
      (!get('q') || d.metadata.name.includes(get('q'))) &&
      (!get('app') || d.status.apps.some((a) => a.app === get('app'))) &&
      (!get('version') || d.status.apps.some((a) => a.activeVersion === get('version'))) &&
      (!get('labelSelector') || matches(d, get('labelSelector'))),
  )
  const sort = get('sort')
  if (sort) {
    const way = sort.startsWith('-') ? -1 : 1
    const key = { name: (d) => d.metadata.name, location: (d) => d.spec.location, lastSeen: (d) => d.status.lastSeenAt ?? 0 }[sort.replace('-', '')]
    if (key) out = [...out].toSorted((a, b) => (key(a) < key(b) ? -way : key(a) > key(b) ? way : 0))
  }
  return out
}

const tally = (list, key) => list.reduce((sum, d) => ({ ...sum, [d.status[key]]: (sum[d.status[key]] ?? 0) + 1 }), {})

function summary(list) {
  const places = new Map()
  for (const d of list) {
    const at = places.get(d.spec.location) ?? { location: d.spec.location, total: 0, online: 0, unhealthy: 0 }
    at.total += 1
    if (d.status.reachability === 'online') at.online += 1
    if (d.status.health === 'degraded' || d.status.health === 'failing') at.unhealthy += 1
    places.set(d.spec.location, at)
  }
  return {
    total: list.length, reachability: tally(list, 'reachability'), health: tally(list, 'health'), conformance: tally(list, 'conformance'), lifecycle: tally(list, 'lifecycle'),
    byLocation: [...places.values()].toSorted((a, b) => (a.location < b.location ? -1 : 1)), channels: ['canary', 'dev', 'prod'],
  }
}

/** Figures that look like a machine's: a slow wave, noise, and now and then a spike. */
function figure(metric, at, device) {
  const t = at / 1000
  const noise = Math.abs(Math.sin(t * 12.9898 + device.status._cpu * 78) * 43758.5453) % 1
  const wave = 0.5 + 0.5 * Math.sin(t / 900 + device.status._cpu * 9)
  const spike = Math.abs(at - (fleet.start - 56 * M)) < 90_000 ? 1 : 0
  const gib = device.status.latest.mem_total ?? 4 * 1024 ** 3
  return (
    {
      cpu: Math.min(1, 0.06 + 0.14 * wave + 0.08 * noise + 0.55 * spike), mem_used: gib * (0.31 + 0.04 * wave + 0.12 * spike), mem_total: gib,
      load1: 0.3 + wave * 0.7 + noise * 0.3 + 3 * spike, load5: 0.4 + wave * 0.6, load15: 0.5 + wave * 0.3, psi_cpu: 0.01 + 0.04 * noise * wave + 0.3 * spike, psi_mem: 0.002 * noise,
      psi_io: 0.008 + 0.02 * noise + 0.1 * spike, disk_used: 9.2e9 + (t % 86400) * 900, disk_total: 3.1e10, io_latency: noise < 0.08 ? null : 0.8 + 2.4 * noise + 18 * spike, io_latency_p99: noise < 0.08 ? null : [2.048, 4.096, 8.192][Math.floor(noise * 3)] * (spike ? 8 : 1), process_exits: 0.4 + 3 * noise * wave + 40 * spike,
      net_retx: noise > 0.9 ? noise * 4 : 0, net_rx: 42_000 + 60_000 * wave * noise, net_tx: 12_000 + 9000 * noise, temperature: 48 + 6 * wave,
    }[metric] ?? null
  )
}

const METRICS = ['cpu', 'mem_used', 'load1', 'load5', 'load15', 'psi_cpu', 'psi_mem', 'psi_io', 'disk_used', 'disk_total', 'io_latency', 'io_latency_p99', 'process_exits', 'net_retx', 'net_rx', 'net_tx', 'mem_total', 'temperature']

const problem = (status, code, detail, errors) => ({ status, body: { type: `https://farshore.dev/problems/${code}`, title: { 'not-found': 'Not found', internal: 'Internal error', unauthenticated: 'Log in first', 'version-mismatch': 'It was changed meanwhile', conflict: 'Conflict', invalid: 'The request is not valid' }[code], status, code, detail, ...(errors ? { errors } : {}), ...(status >= 500 ? { requestId: '0199aa31-7c1e' } : {}) } })
const ok = (body, status = 200) => ({ status, body })
const list = (items) => ok({ items, metadata: { total: items.length } })
const found = (items, id) => items.find((o) => o.metadata.uid === id || o.metadata.name === id)
const PERMISSIONS = ['device.read', 'device.write', 'device.revoke', 'device.operate', 'claim.read', 'claim.write', 'release.read', 'release.write', 'trust.read', 'fleet.read', 'fleet.write', 'rollout.read', 'rollout.write', 'rollout.approve', 'incident.read', 'incident.write', 'policy.read', 'policy.write', 'event.read', 'user.read', 'user.write', 'tenant.read']
const me = { user: fleet.uid(), email: 'anna@northwind.example', tenant: 'northwind', tenantId: fleet.uid(), role: 'tenant-admin', permissions: PERMISSIONS, tenants: ['northwind', 'contoso'], expiresAt: fleet.start + 8 * 3_600_000 }

/** An event of the kernel that is shown and not kept. */
function seen(device, at) {
  const n = Math.floor(at / 1000)
  const [type, message, payload] = [
    ['process_exit', `sh (pid ${n % 30_000}) exited with 0`, { pid: n % 30_000, comm: 'sh', code: 0, source: 'ebpf' }],
    ['process_exit', `curl of edge-web (pid ${n % 30_000}) exited with 7`, { pid: n % 30_000, comm: 'curl', code: 7, app: 'edge-web', source: 'ebpf' }],
    ['tcp_retransmit', '23 TCP segments to 10.20.0.7:443 were sent again', { peer: '10.20.0.7:443', times: 23, source: 'ebpf' }],
    ['process_exit', `the process of edge-web (server, pid ${n % 30_000}) was killed by SIGKILL`, { pid: n % 30_000, comm: 'server', signal: 'SIGKILL', app: 'edge-web', main: true, source: 'ebpf' }],
  ][Math.floor(n / 3) % 4]
  return { uid: fleet.uid(), sequence: 0, at: at - 40, type, subject: dev(device), actor: `device:${device.metadata.name}`, message, payload }
}

fleet.configs.push(...sensors.pipelineConfigs)

function answer(method, path, query, body, version) {
  const parts = path.split('/').filter(Boolean).slice(1)
  const [noun, id, more] = parts
  const lists = { releases: fleet.releases, apps: fleet.apps, placements: fleet.placements, channels: fleet.channels, pins: fleet.pins, configs: fleet.configs, users: fleet.users, 'claim-tokens': fleet.tokens, 'gateway-keys': sensors.gatewayKeys, rollouts: fleet.rollouts }
  if (noun === 'me') return ok(me)
  if (noun === 'logout') return { status: 204 }
  if (noun === 'login') {
    if (id === 'link' && !body.password) return problem(400, 'invalid', 'this user has no password yet', [{ field: 'password', message: 'is needed: at least 12 characters' }])
    return body.password === 'wrong' ? problem(401, 'unauthenticated', 'the email or the password is wrong') : ok(me)
  }
  if (noun === 'incidents' && id !== undefined) return ok(found(incidents, decodeURIComponent(id).split(':')[0]))
  if (noun === 'incidents') return list(incidents.filter((i) => ['device', 'rollout', 'state'].every((k) => !query.get(k) || [i.spec[k], i.status[k]].includes(query.get(k)))))
  if (noun === 'alerts') return list(alerts.filter((a) => !query.get('state') || a.state === query.get('state')))
  if (noun === 'silences') return list(silences)
  const gateways = () => sensors.gateways(devices, found(devices, 'gw-1563'))
  if (noun === 'sync') return list(gateways())
  if (noun === 'series') return id === 'latest' ? list(sensors.latest(query, gateways())) : ok(sensors.series(query, gateways()))
  if (noun === 'document-collections') {
    if (id === undefined) return list(documents.collections)
    const [status, said] = documents.change(method, decodeURIComponent(id), version, body)
    if (status === 400) return problem(400, 'invalid', 'the rules are not valid', [said])
    return status === 412 ? problem(412, 'version-mismatch', said.detail) : { status, body: said }
  }
  if (noun === 'document-conflicts') {
    if (method === 'POST') documents.settle(decodeURIComponent(id).split(':')[0], body.choose)
    return method === 'POST' ? ok({}) : list(documents.conflicts(found(devices, query.get('device'))))
  }
  if (noun === 'devices' && (more === 'twin' || more === 'documents')) {
    const said = documents.answer(method, found(devices, decodeURIComponent(id)), parts.slice(2), body)
    return said === undefined ? problem(404, 'not-found', 'there is no such document') : ok(said)
  }
  const kept = { 'alert-rules': rules, 'alert-routes': routes, sinks: sensors.sinks }[noun]
  if (kept && method === 'POST') {
    if (noun === 'alert-routes' && body.spec.type === 'email' && body.spec.email.ca !== undefined && !body.spec.email.ca.includes('BEGIN CERTIFICATE')) return problem(400, 'invalid', 'the route is not valid', [{ field: 'spec.email.ca', message: 'is one or more certificates in PEM: -----BEGIN CERTIFICATE-----…' }])
    const made = { ...kept[0], metadata: { ...kept[0].metadata, uid: fleet.uid(), name: body.metadata.name }, spec: body.spec, status: { ...kept[0].status, builtIn: false } }
    kept.push(made)
    return ok({ ...made, status: { ...made.status, ...(body.spec.type === 'webhook' ? { secret: 'whsec_bm90IGEgcmVhbCBzZWNyZXQ=' } : {}) } }, 201)
  }
  if (kept && method === 'PUT') {
    const one = found(kept, decodeURIComponent(id))
    if (body.spec.threshold > 1_000_000) return problem(400, 'invalid', 'the rule is not valid', [{ field: 'spec.threshold', message: 'is 1 to 1000000 exits' }])
    one.spec = body.spec
    return ok(one)
  }
  if (kept) return list(kept)
  if (noun === 'alert-deliveries' && id !== undefined) {
    const one = deliveries.find((d) => d.uid === decodeURIComponent(id).split(':')[0])
    one.state = 'queued'
    return ok(one)
  }
  if (noun === 'alert-deliveries') return list(deliveries.filter((d) => !query.get('state') || d.state === query.get('state')))
  if (noun === 'artifacts') return list(fleet.artifacts)
  if (noun === 'events') {
    const subject = query.get('subject')
    const kind = query.get('subjectKind')
    return list(events.filter((e) => (!kind || e.subject.kind === kind) && (!subject || e.subject.uid === subject || e.subject.name === subject)).slice(0, Number(query.get('limit') ?? 100)))
  }
  if (noun === 'devices' && id === undefined) {
    const all = filtered(query)
    const from = Number(query.get('continue') ?? 0)
    const limit = Math.min(1000, Number(query.get('limit') ?? 100))
    const items = all.slice(from, from + limit).map((d) => (query.get('sparkline') ? { ...d, status: { ...d.status, sparkline: fleet.sparkline(d) } } : d))
    return ok({ items, metadata: { total: all.length, ...(from + limit < all.length ? { continue: String(from + limit) } : {}) } })
  }
  if (noun === 'devices:operate') return ok(operations.plan(body, devices))
  if (noun === 'operations') return list(operations.ofDevice(found(devices, query.get('device')) ?? devices[0]))
  if (noun === 'devices' && id === 'summary') return ok(summary(filtered(query)))
  if (noun === 'devices') {
    const [key, verb] = decodeURIComponent(id).split(':')
    const device = found(devices, key)
    if (!device) return problem(404, 'not-found', `there is no device ${key}`)
    if (more === 'policy') return ok(policies.ofDevice(device))
    if (more === 'connectivity') return ok(fleet.connectivity(device))
    if (more === 'pipelines') return ok(sensors.pipelines(device, gateways()))
    if (more === 'metrics') {
      const [from, to, points] = ['from', 'to', 'points'].map((k) => Number(query.get(k)))
      const step = Math.max(1000, (to - from) / (points || 300))
      const at = Array.from({ length: Math.floor((to - from) / step) }, (_, i) => Math.round(from + i * step))
      const names = (query.get('metrics') ?? METRICS.join(',')).split(',')
      return ok({ stream: 'host', at, columns: Object.fromEntries(names.map((m) => [m, at.map((t) => figure(m, t, device))])) })
    }
    if (verb === 'approve') device.status.lifecycle = 'claimed'
    if (verb === 'cordon') device.status.lifecycle = 'cordoned'
    if (verb === 'uncordon') device.status.lifecycle = 'claimed'
    return ok(device)
  }
  if (noun === 'policies:preview') {
    const { answer, errors } = policies.preview(body, devices)
    return errors ? problem(400, 'invalid', 'the policy is not valid', errors) : ok(answer)
  }
  if (noun === 'policies') {
    const refused = (errors) => problem(400, 'invalid', 'the policy is not valid', errors)
    if (id === undefined && method === 'POST') {
      const { stored, errors } = policies.store(body)
      return errors ? refused(errors) : ok(stored)
    }
    if (id === undefined) return list(policies.policies)
    const policy = found(policies.policies, decodeURIComponent(id))
    if (!policy) return problem(404, 'not-found', `there is no policy ${id}`)
    if (method === 'PUT') {
      const { stored, errors } = policies.store(body, policy)
      return errors ? refused(errors) : ok(stored)
    }
    return more === 'versions' ? list(policies.versions(policy)) : ok(policy)
  }
  if (noun === 'rollouts' && id !== undefined) {
    const [key, verb] = decodeURIComponent(id).split(':')
    const rollout = found(fleet.rollouts, key)
    if (!rollout) return problem(404, 'not-found', `there is no rollout ${key}`)
    if (more === 'devices') {
      const bucket = query.get('bucket')
      return ok(rolling.page(rolling.members(rollout, devices).filter((d) => !bucket || d.bucket === bucket), query))
    }
    if (more === 'plan') return ok(rolling.plan(rollout, devices, query))
    if (more === 'why') return ok(rolling.why(rollout))
    if (verb === 'simulate') return ok(rolling.forecast(rollout))
    if (verb) rolling.act(rollout, verb, body, me.email)
    return ok(rollout)
  }
  if (noun === 'rollouts' && method === 'POST') {
    const { made, errors } = rolling.create(body, query.get('start') !== 'false')
    if (errors) return problem(400, 'invalid', 'the rollout is not valid', errors)
    fleet.rollouts.unshift(made)
    return ok(made, 201)
  }
  if (noun === 'claim-tokens' && method === 'POST') {
    const token = { ...fleet.tokens[0], metadata: { ...fleet.tokens[0].metadata, uid: fleet.uid(), name: body.metadata.name, createdAt: Date.now() }, spec: body.spec, status: { used: 0, revoked: false, expiresAt: Date.now() + (body.spec.lifetimeSeconds ?? 3600) * 1000 } }
    fleet.tokens.unshift(token)
    return ok({ ...token, status: { ...token.status, token: 'fsct1_eyJhZGRyZXNzIjoiaHR0cHM6Ly8x', command: 'farshore-agent claim --server https://fleet.northwind.example:7443 --token fsct1_eyJhZGRyZXNzIjoiaHR0cHM6Ly8x' } }, 201)
  }
  if (noun === 'claim-tokens' && method === 'DELETE') {
    const token = found(fleet.tokens, decodeURIComponent(id))
    if (token) token.status.revoked = true
    return { status: 204 }
  }
  if (noun === 'configs' && (method === 'POST' || method === 'PUT')) {
    const { made, errors } = sensors.writeConfig(fleet.configs, body, id === undefined ? fleet.uid() : decodeURIComponent(id))
    return errors ? problem(400, 'invalid', 'the config is not valid', errors) : ok(made, method === 'POST' ? 201 : 200)
  }
  if (noun === 'configs' && method === 'DELETE') {
    const at = fleet.configs.findIndex((c) => c.metadata.uid === decodeURIComponent(id))
    if (at >= 0) fleet.configs.splice(at, 1)
    return { status: 204 }
  }
  if (noun === 'gateway-keys' && method === 'POST') {
    if (!/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(body.spec.device)) return problem(400, 'invalid', 'a name is not valid', [{ field: 'spec.device', message: 'is a name: a-z, 0-9, - and .' }])
    return ok(sensors.makeKey(body, fleet.uid()), 201)
  }
  if (noun === 'gateway-keys' && method === 'DELETE') {
    sensors.revokeKey(decodeURIComponent(id))
    return { status: 204 }
  }
  if (lists[noun]) return id === undefined ? list(lists[noun]) : ok(found(lists[noun], decodeURIComponent(id)))
  return problem(404, 'not-found', `there is nothing at ${path}`)
}

function stream(request, response, every, tick) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  response.write(': hello\n\n')
  const timer = setInterval(() => tick((event, data, id) => response.write(`${id ? `id: ${id}\n` : ''}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)), every)
  request.on('close', () => clearInterval(timer))
}

async function bodyOf(request) {
  let text = ''
  for await (const piece of request) if (text.length < 1e6) text += piece
  return text ? JSON.parse(text) : {}
}

const server = createServer((request, response) => {
  void handle(request, response).catch((error) => {
    console.error(error)
    response.writeHead(500).end()
  })
})

async function handle(request, response) {
  const url = new URL(request.url ?? '/', 'http://mock')
  const scene = /mock=(\w+)/.exec(request.headers.cookie ?? '')?.[1]
  if (!url.pathname.startsWith('/api')) {
    const path = normalize(url.pathname)
    const file = join(dist, path)
    const real = extname(path) !== '' && file.startsWith(dist) && existsSync(file) ? file : join(dist, 'index.html')
    response.writeHead(200, { 'content-type': TYPES[extname(real)] ?? 'application/octet-stream', 'content-security-policy': CSP })
    createReadStream(real).pipe(response)
    return
  }
  const path = url.pathname
  if (path === '/api/events/stream') {
    stream(request, response, 1000, (send) => {
      const device = devices[Math.floor(Math.random() * 60)]
      device.status.lastSeenAt = Date.now()
      send('device-changed', { uid: device.metadata.uid, name: device.metadata.name })
    })
    return
  }
  if (path.startsWith('/api/operations/') && path.endsWith('/output')) {
    let tell
    stream(request, response, 500, (send) => (tell ??= operations.follow(send))())
    return
  }
  if (path.endsWith('/metrics/stream')) {
    const device = found(devices, decodeURIComponent(path.split('/')[3] ?? ''))
    stream(request, response, 1000, (send) => {
      const at = Date.now()
      if (device && Math.floor(at / 1000) % 3 === 0) send('event', seen(device, at))
      for (const app of device?.status.reachability === 'online' ? device.status.apps : []) send('sample', { stream: `app/${app.app}`, at, values: { cpu: 0.02 + Math.random() * 0.04, mem_used: 18_000_000 + Math.random() * 1e6, processes: 3, io_read: 0, io_write: Math.random() * 8000 } })
      if (device) send('sample', { stream: 'host', at, values: Object.fromEntries(METRICS.map((m) => [m, figure(m, at, device)]).filter(([, v]) => v !== null)) })
    })
    return
  }
  if (scene === 'slow' && path !== '/api/me') return
  const body = ['POST', 'PUT'].includes(request.method ?? '') ? await bodyOf(request) : {}
  const version = /^"(\d+)"$/.exec(request.headers['if-match'] ?? '')?.[1]
  let { status, body: out } = answer(request.method, path, url.searchParams, body, version === undefined ? undefined : Number(version))
  if (scene === 'out' && path === '/api/me') ({ status, body: out } = problem(401, 'unauthenticated', 'no session'))
  else if (scene === 'error' && path !== '/api/me') ({ status, body: out } = problem(500, 'internal', 'the database did not answer in time'))
  else if (scene === 'empty' && path === '/api/devices/summary') out = { ...summary([]), channels: [] }
  else if (scene === 'empty' && out?.items) out = { items: [], metadata: { total: 0 } }
  response.writeHead(status, { 'content-type': status >= 400 ? 'application/problem+json' : 'application/json' })
  response.end(out === undefined ? undefined : JSON.stringify(out))
}

server.listen(port, '127.0.0.1', () => console.log(`mock server: http://127.0.0.1:${server.address().port}`))
