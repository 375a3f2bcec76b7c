/** Operations of the mock server: what a device was asked, a running one with output, and a plan for many. */
const AT = Date.now()

const make = (device, n, spec, status) => ({
  apiVersion: 'farshore.dev/v1',
  kind: 'Operation',
  metadata: { uid: `0199f000-0000-7000-8000-00000000${String(n).padStart(4, '0')}`, name: `0199f000-0000-7000-8000-00000000${String(n).padStart(4, '0')}`, labels: {}, resourceVersion: 1, managedBy: 'anna@northwind.example', createdAt: AT - n * 400_000 },
  spec: { device: device.metadata.uid, deviceName: device.metadata.name, arguments: {}, reason: '', requestedBy: 'user:anna@northwind.example', expiresAt: AT + 80_000_000, timeLimitSeconds: 60, ...spec },
  status: { message: '', waits: '', outputBytes: 0, outputTotal: 0, ...status },
})

export const ofDevice = (device) => [
  make(device, 1, { kind: 'exec', arguments: { runbook: 'check-printer', arguments: ['receipt'] }, reason: 'the queue is stuck since this morning' }, { state: 'running', deadlineAt: AT + 55_000, startedAt: AT - 4000 }),
  make(device, 2, { kind: 'drain', reason: 'new shelves' }, { state: 'queued', waits: 'the budget of location=riga-mall: 1 of 4 down already (kiosk-0412), at most 1', deadlineAt: AT + 80_000_000 }),
  make(device, 3, { kind: 'exec', arguments: { runbook: 'flush-cache' } }, { state: 'failed', message: 'it ended with 3', exitCode: 3, outputBytes: 102_400, outputTotal: 300_000, finishedAt: AT - 900_000 }),
  make(device, 4, { kind: 'logs', app: 'edge-web' }, { state: 'succeeded', outputBytes: 4200, outputTotal: 4200, finishedAt: AT - 1_500_000 }),
  make(device, 5, { kind: 'diagnostics' }, { state: 'expired', message: 'the device did not take it in time', finishedAt: AT - 1_900_000 }),
]

const LINES = ['printer receipt: EPSON TM-T20, online', 'queue: 14 jobs', 'oldest job waits since 07:41:12', 'restarting the spooler…', 'queue: 0 jobs']

/** Tells a line each half second. */
export function follow(send) {
  let offset = 0
  let line = 0
  return () => {
    const text = LINES[line]
    if (text === undefined) return
    const bytes = Buffer.from(`${text}\n`)
    send('output', { offset, bytes: bytes.toString('base64') })
    offset += bytes.length
    line += 1
  }
}

export function plan(body, devices) {
  const labels = (body.selector ?? '').split(',').map((part) => part.split('='))
  const matches = (d) => labels.every(([key, value]) => d.metadata.labels[key] === value)
  const named = (body.devices ?? []).map((id) => devices.find((d) => d.metadata.uid === id)).filter(Boolean)
  const chosen = body.selector === undefined ? named : devices.filter(matches).slice(0, 1000)
  const shown = chosen.map((device, n) => ({
    uid: device.metadata.uid,
    name: device.metadata.name,
    reachability: device.status.reachability,
    does: body.verb === 'drain' ? 'stops its apps and keeps them stopped until it is uncordoned' : `${body.verb} of ${body.ask.arguments?.runbook ?? body.ask.app ?? 'it'}`,
    ...(n % 3 === 2 ? { refused: { code: 'PolicyForbids', message: 'the device’s policy has no runbook check-printer' } } : {}),
  }))
  const refused = shown.filter((d) => d.refused).length
  return { verb: body.verb, dryRun: body.dryRun, preview: 'sha256:5ad1', total: shown.length, accepted: shown.length - refused, refused, pace: 'at most 1 at once, and at most 1 of each location down', devices: shown }
}
