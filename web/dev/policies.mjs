/** Policies of the mock server, and what a device obeys. */
const AT = Date.now() - 9 * 86_400_000

const make = (name, uid, version, spec, devices) => ({
  apiVersion: 'farshore.dev/v1',
  kind: 'Policy',
  metadata: { uid, name, labels: {}, resourceVersion: version, managedBy: 'api', createdAt: AT },
  spec: { description: '', selector: '', priority: 0, ...spec },
  status: { devices },
})

export const policies = [
  make(
    'calm-restarts',
    '0198f000-0000-7000-8000-00000000a001',
    3,
    { description: 'for every device', rules: { restart: { backoffMs: 500, maxRestarts: 5, windowSeconds: 600 }, rollback: { afterRestarts: 3, to: 'previous' } } },
    2000,
  ),
  make(
    'kiosks',
    '0198f000-0000-7000-8000-00000000a002',
    1,
    {
      selector: 'role=kiosk',
      priority: 10,
      rules: {
        restart: { maxRestarts: 3 },
        health: { conditions: [{ name: 'memory-full', when: 'metric("mem_used") / metric("mem_total") > 0.95', forSeconds: 120, app: 'edge-web' }] },
        operations: { runbooks: [{ name: 'check-printer', description: 'asks a printer how it is', command: ['/usr/bin/lpstat', '-p'], timeoutSeconds: 20, arguments: [{ name: 'printer', pattern: 'receipt|kitchen' }] }] },
      },
    },
    640,
  ),
]

export const versions = (policy) =>
  Array.from({ length: policy.metadata.resourceVersion }, (_, i) => ({
    version: policy.metadata.resourceVersion - i,
    at: AT + (policy.metadata.resourceVersion - i) * 3_600_000,
    actor: 'anna@northwind.example',
    spec: i === 0 ? policy.spec : { ...policy.spec, rules: { restart: { maxRestarts: 6 + i } } },
  }))

/** What the server would find wrong, as far as the page's tests need it. */
function wrong(spec) {
  const errors = []
  for (const [i, window] of (spec.rules.schedule?.windows ?? []).entries()) {
    if (String(window.cron).split(' ').length !== 5) errors.push({ field: `spec.rules.schedule.windows[${i}].cron`, message: 'has five fields: write minute, hour, day of month, month and day of week' })
  }
  const most = spec.rules.restart?.maxRestarts
  if (most !== undefined && !(most >= 0 && most <= 60)) errors.push({ field: 'spec.rules.restart.maxRestarts', message: 'is 0 to 60' })
  return errors
}

export function preview({ metadata, spec }, devices) {
  const errors = wrong(spec)
  if (errors.length > 0) return { errors }
  const matching = devices.filter((d) => spec.selector === '' || Object.entries(d.metadata.labels ?? {}).some(([k, v]) => `${k}=${v}` === spec.selector))
  const changes = Object.entries(spec.rules).flatMap(([section, values]) =>
    Object.entries(values).map(([key, value]) => ({ path: `${section}.${key}`, to: JSON.stringify(value), policy: metadata.name, devices: matching.length })),
  )
  return { answer: { matching: matching.length, changed: matching.length, changes, devices: matching.slice(0, 200).map((d) => d.metadata.name) } }
}

export function store({ metadata, spec }, old) {
  const errors = wrong(spec)
  if (errors.length > 0) return { errors }
  if (old) {
    old.spec = spec
    old.metadata.resourceVersion += 1
    return { stored: old }
  }
  const stored = make(metadata.name, crypto.randomUUID(), 1, spec, 12)
  policies.push(stored)
  return { stored }
}

export function ofDevice(device) {
  const matching = policies.toReversed().filter((p) => p.spec.selector === '' || device.metadata.labels?.role === 'kiosk')
  const rules = {}
  const provenance = {}
  for (const policy of matching) {
    for (const [section, values] of Object.entries(policy.spec.rules)) {
      for (const [key, value] of Object.entries(values)) {
        const path = `${section}.${key}`
        if (path in provenance) continue
        provenance[path] = { policy: policy.metadata.name, version: policy.metadata.resourceVersion }
        rules[section] = { ...rules[section], [key]: value }
      }
    }
  }
  const from = matching.map((p) => ({ policy: p.metadata.name, version: p.metadata.resourceVersion }))
  return { device: device.metadata.name, understood: true, effective: { rules, provenance, policies: from } }
}
