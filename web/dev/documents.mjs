/** The twin, documents and conflicts of one gateway of the demonstration fleet. */

const MINUTE = 60_000
const GATEWAY = 'gw-1563'
const now = Date.now()

const desired = { version: 4, value: { interval: 10, led: { color: 'amber', on: true }, units: 'metric' }, changedAt: now - 12 * MINUTE, times: {} }
const reported = { version: 91, value: { interval: 30, led: { color: 'amber' }, units: 'metric', firmware: '7.2.1', uptimeHours: 1_204 }, changedAt: now - 2 * MINUTE, times: {} }
const NONE = { version: 0, value: {}, times: {} }

const document = (collection, name, revision, value, author, minutes, delivered = true) => ({ device: GATEWAY, collection, name, revision, value, bytes: JSON.stringify(value).length, author, createdAt: now - 9_000 * MINUTE, changedAt: now - minutes * MINUTE, delivered, times: {} })

const all = [
  document('calibration', 'scale-1', 12, { zero: 0.0134, span: 1.00021, by: 'line 3' }, 'device', 95),
  document('menu', 'lunch', 3, { soup: { name: 'Lentils', price: 4.5 }, dishes: ['Pasta', 'Curry', 'Fish of the day'] }, 'user:ann@example.com', 4, false),
  document('settings', 'main', 27, { volume: 5, door: { open: false, code: '****' }, languages: ['lv', 'en'] }, 'device', 31),
]

const log = [
  { uid: '0197a000-0000-7000-8000-000000000001', collection: 'settings', name: 'main', path: '/volume', rule: { path: '/volume', strategy: 'manual' }, winner: 'open', base: 3, edge: 5, cloud: 7, edgeAt: now - 240 * MINUTE, cloudAt: now - 200 * MINUTE, cloudBy: 'user:ann@example.com', revision: 26, at: now - 33 * MINUTE, open: true },
  { uid: '0197a000-0000-7000-8000-000000000002', collection: 'calibration', name: 'scale-1', path: '', rule: { path: '', strategy: 'custom', resolver: 'edge.checked > cloud.checked ? edge : cloud' }, winner: 'open', note: 'the resolver failed: there is no "checked"; has(…) asks whether there is', base: { zero: 0.01 }, edge: { zero: 0.0134, span: 1.00021 }, cloud: { zero: 0.01, span: 1 }, edgeAt: now - 500 * MINUTE, cloudAt: now - 510 * MINUTE, cloudBy: 'token:importer', revision: 11, at: now - 96 * MINUTE, open: true },
  { uid: '0197a000-0000-7000-8000-000000000003', collection: 'settings', name: 'main', path: '/door/open', rule: { path: '', strategy: 'merge' }, winner: 'edge', base: true, edge: false, cloud: null, edgeAt: now - 400 * MINUTE, cloudAt: now - 410 * MINUTE, cloudBy: 'user:bo@example.com', revision: 20, at: now - 390 * MINUTE, open: false },
]

const is = (device) => device.metadata.name === GATEWAY

const rule = (path, strategy, resolver) => ({ path, strategy, ...(resolver ? { resolver } : {}) })
const collection = (name, rules, readOnly, more, minutes) => ({ name, rules, readOnly, ...more, resourceVersion: 3, changedAt: now - minutes * MINUTE, changedBy: 'user:ann@example.com' })
export const collections = [
  collection('calibration', [rule('', 'edge-wins'), rule('/checked', 'custom', 'edge.checked > cloud.checked ? edge : cloud')], false, { conflictDays: 400 }, 44_000),
  collection('menu', [], true, {}, 90),
  collection('settings', [rule('', 'merge'), rule('/volume', 'manual')], false, {}, 300),
]

/** The rules of one: `[status, body]`, with what the server itself says. */
export function change(method, name, version, body) {
  const invalid = (field, message) => [400, { field, message }]
  const at = collections.findIndex((one) => one.name === name)
  const current = collections[at]?.resourceVersion ?? 0
  if (version !== undefined && version !== current) return [412, { detail: `it is at version ${current}, not ${version}` }]
  if (method === 'DELETE') {
    collections.splice(at, 1)
    return [204]
  }
  if (!/^[a-z0-9][a-z0-9._-]*$/.test(name)) return invalid('name', "a collection's name has 1 to 63 small letters, digits, '-', '_' or '.', and begins with a letter or digit")
  const wrong = body.rules.findIndex((one) => one.strategy === 'custom' && !/^(edge|cloud|base)\b.*\w$/.test(one.resolver))
  if (wrong >= 0) return invalid(`rules[${wrong}]`, 'the resolver does not compile: it ends in the middle of an expression')
  if (body.conflictDays !== undefined && !(body.conflictDays >= 1 && body.conflictDays <= 400)) return invalid('conflictDays', 'is 1 to 400')
  const made = { name, ...body, resourceVersion: current + 1, changedAt: Date.now(), changedBy: 'user:you@example.com' }
  if (at < 0) collections.push(made)
  else collections[at] = made
  return [200, made]
}

export const conflicts = (device) => (is(device) ? log : [])

export function settle(uid, choose) {
  const one = log.find((conflict) => conflict.uid === uid)
  if (one) Object.assign(one, { open: false, chosen: choose, settledAt: Date.now(), settledBy: 'user:you@example.com' })
}

function outstanding() {
  const found = []
  const walk = (path, want, has, since) => {
    if (typeof want === 'object' && want !== null && !Array.isArray(want)) for (const [name, value] of Object.entries(want)) walk(`${path}/${name}`, value, has?.[name], since)
    else if (JSON.stringify(want) !== JSON.stringify(has)) found.push({ path, desired: want, ...(has === undefined ? {} : { reported: has }), since })
  }
  walk('', desired.value, reported.value, desired.changedAt)
  return found
}

const merge = (target, patch) => {
  const made = { ...target }
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete made[name]
    else made[name] = typeof value === 'object' && !Array.isArray(value) ? merge(made[name] ?? {}, value) : value
  }
  return made
}

export function answer(method, device, [what, collection, name, more], body) {
  if (what === 'twin') {
    if (!is(device)) return { device: device.metadata.uid, desired: NONE, reported: NONE, pending: [], delivered: true, sync: { pending: 0, openConflicts: 0 } }
    if (method === 'PATCH') Object.assign(desired, { value: merge(desired.value, body), version: desired.version + 1, changedAt: Date.now() })
    return { device: device.metadata.uid, desired, reported, pending: outstanding(), delivered: true, sync: { syncedAt: Date.now() - 9_000, pending: 2, pendingSince: now - 5 * MINUTE, openConflicts: log.filter((one) => one.open).length } }
  }
  if (collection === undefined) return { items: is(device) ? all.map((one) => ({ ...one, value: undefined })) : [], metadata: {} }
  const one = all.find((each) => each.collection === collection && each.name === name)
  if (one === undefined) return undefined
  if (more === 'history') {
    const revision = (back, cause, author, changes) => ({ revision: one.revision - back, at: one.changedAt - back * 44 * MINUTE, author, cause, value: one.value, ...(changes ? { changes } : {}) })
    return { items: [revision(0, 'merge', 'device', { volume: 5 }), revision(1, 'edit', 'user:ann@example.com', { door: { open: false }, old: null }), revision(2, 'sync', 'device', { languages: ['lv', 'en'] }), revision(3, 'edit', 'user:ann@example.com')], metadata: {} }
  }
  if (method === 'PUT') Object.assign(one, { value: body, revision: one.revision + 1, author: 'user:you@example.com', changedAt: Date.now(), delivered: false })
  return one
}
