/** Invented incidents, alerts and silences. */
import * as fleet from './fleet.mjs'

const MINUTE = 60_000
const { start } = fleet

const incident = (name, device, cause, state, message, minutes, actions) => ({
  apiVersion: 'farshore.dev/v1', kind: 'Incident',
  metadata: { uid: fleet.uid(), name, resourceVersion: 4, managedBy: 'engine', createdAt: start - minutes * MINUTE },
  spec: { device: device.metadata.uid, deviceName: device.metadata.name, location: device.spec.location, app: 'edge-web', cause, version: '1.1.0', rollout: fleet.rolloutUid, rolloutName: 'edge-web-1-1-prod', startedAt: start - minutes * MINUTE },
  status: {
    state, message, signs: actions.length + 1, lastAt: start - (minutes - 3) * MINUTE,
    actions: actions.map(([kind, text], i) => ({ kind, at: start - (minutes - 1 - i) * MINUTE, lastAt: start - (minutes - 1 - i) * MINUTE, count: 1, message: text })),
    ...(state === 'resolved' ? { endedAt: start - (minutes - 8) * MINUTE, resolvedAt: start - (minutes - 9) * MINUTE, resolvedBy: 'engine' } : {}),
    notes: [], evidence: ['release', 'policy', 'logs', 'metrics', 'kernel'].map((part) => ({ part, takenAt: start - (minutes - 2) * MINUTE, bytes: 4200 })),
  },
})

/** `devices`: any three of the fleet. */
export function make([a, b, c]) {
  const incidents = [
    incident('inc-0041', a, 'crash-loop', 'open', 'edge-web was restarted 3 times in 5 minutes', 14, [['auto-restart', 'restarted with backoff'], ['rollback', 'went back to 1.0.0']]),
    incident('inc-0042', b, 'check-failed', 'open', 'check http of edge-web answered 503', 6, [['auto-restart', 'restarted with backoff']]),
    incident('inc-0040', c, 'check-failed', 'resolved', 'check http of edge-web answered 503', 90, [['auto-restart', 'restarted with backoff']]),
  ]
  const alert = (rule, severity, device, summary, minutes, more = {}) => ({
    uid: fleet.uid(), rule, severity, state: 'firing', subject: { kind: 'Device', uid: device.metadata.uid, name: device.metadata.name }, location: device.spec.location,
    labels: { rule, location: device.spec.location }, summary, startedAt: start - minutes * MINUTE, silencedBy: [], ...more,
  })
  const alerts = [
    alert('crash-loop', 'critical', a, `${a.metadata.name} restarts edge-web again and again`, 14),
    alert('device-offline', 'warning', b, `nothing was heard from ${b.metadata.name} for 15 minutes`, 20),
    alert('disk-full-soon', 'warning', c, `the disk of ${c.metadata.name} will be full in about 6 hours`, 55, { acknowledgedAt: start - 30 * MINUTE, acknowledgedBy: 'ops@northwind.example' }),
  ]
  const silences = [{
    apiVersion: 'farshore.dev/v1', kind: 'Silence', metadata: { uid: fleet.uid(), name: 'depot-rebuild', resourceVersion: 1, managedBy: 'api', createdAt: start - 60 * MINUTE },
    spec: { matchers: [{ name: 'location', value: 'depot', isEqual: true }], endsAt: start + 8 * 60 * MINUTE, comment: 'the depot is being rebuilt' }, status: { state: 'active' },
  }]
  const object = (kind, name, spec, status) => ({ apiVersion: 'farshore.dev/v1', kind, metadata: { uid: fleet.uid(), name, labels: {}, resourceVersion: 1, managedBy: 'engine', createdAt: start - 9000 * MINUTE }, spec, status })
  const rule = (name, severity, threshold, unit, description, more = {}) =>
    object('AlertRule', name, { type: name, enabled: true, severity, threshold, selector: '', description, ...more }, { builtIn: more.type === undefined, unit, least: 1, most: 1_000_000 })
  const rules = [
    rule('crash-loop', 'critical', 3, 'exits', 'An app ends again and again.'),
    rule('device-offline', 'warning', 300, 'seconds', 'Nothing was heard of a device for some time.'),
    rule('disk-full-soon', 'warning', 24, 'hours', 'The disk is full soon at the pace of the last hours.', { enabled: false }),
    rule('tills-offline', 'critical', 60, 'seconds', 'A till is missed at once.', { type: 'device-offline', selector: 'role=till' }),
  ]
  const route = (name, spec) => object('AlertRoute', name, { enabled: true, minSeverity: 'warning', matchers: [], sendResolved: true, groupWaitSeconds: 10, ...spec }, { secretSet: true })
  const routes = [
    route('ops-hook', { type: 'webhook', webhook: { url: 'https://hooks.northwind.example/farshore', format: 'alertmanager' } }),
    route('night-watch', { type: 'email', minSeverity: 'critical', matchers: [{ name: 'location', value: 'riga-1', isEqual: true }], email: { to: ['ops@northwind.example', 'anna@northwind.example'], from: 'farshore@northwind.example', host: 'mail.northwind.example', port: 587, tls: 'starttls', ca: '-----BEGIN CERTIFICATE-----\nMIIB…\n-----END CERTIFICATE-----\n', username: 'farshore' } }),
  ]
  const delivery = (routeName, groupKey, state, attempts, minutes, more = {}) => ({ uid: fleet.uid(), route: fleet.uid(), routeName, groupKey, state, attempts, nextAt: start + MINUTE, createdAt: start - minutes * MINUTE, alerts: 2, ...more })
  const deliveries = [
    delivery('night-watch', 'crash-loop/riga-1', 'queued', 2, 4, { lastError: 'the certificate of mail.northwind.example:587 is of no authority in this route\'s ca' }),
    delivery('ops-hook', 'crash-loop/riga-1', 'delivered', 1, 4, { finishedAt: start - 4 * MINUTE }),
    delivery('ops-hook', 'device-offline/depot', 'dead', 10, 900, { lastError: 'the receiver answered 410 Gone and wants no more messages', finishedAt: start - 200 * MINUTE }),
  ]
  return { incidents, alerts, silences, rules, routes, deliveries }
}
