/** `/alerts/routes`: to whom which alerts are told. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, del, keyring, seg } from '~/api/client'
import { alertRoutesQuery, save, type AlertRoute, type AlertRouteSpec, type Severity } from '~/api/incidents'
import { keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { Mark } from '~/ui/mark'
import { Empty, Failure, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table } from '~/ui/table'

import { AlertPlaces, SEVERITIES, UNKNOWN } from './places'
import { draftOf, specOf, type RouteDraft } from './route-draft'

export function AlertRoutes() {
  const routes = useQuery(alertRoutesQuery)
  const denied = useDenied('incident.write')
  const [editing, setEditing] = useState<AlertRoute | 'new' | undefined>()
  const [secret, setSecret] = useState<{ name: string; secret: string } | undefined>()
  const to = (r: AlertRoute): string => r.spec.webhook?.url ?? r.spec.email?.to.join(', ') ?? ''
  return (
    <Page
      title="Alert routes"
      actions={
        <>
          <AlertPlaces at="routes" />
          <Button disabledReason={denied} onClick={() => setEditing('new')}>
            New route…
          </Button>
          <CopyButton small={false} label="Command" text="farshore get alert-routes" />
        </>
      }
    >
      <Resource
        query={routes}
        what="alert routes"
        empty={
          <Empty title="Nobody is told of alerts">
            <p className="text-center">A route says to whom alerts are told: by a signed webhook, or by mail.</p>
          </Empty>
        }
      >
        {(items) => (
          <Table
            label="Alert routes"
            items={items}
            id={(r) => r.metadata.uid}
            columns={[
              { title: 'Name', cell: (r) => <span className="font-medium">{r.metadata.name}</span> },
              { title: 'To', cell: (r) => <span className="[overflow-wrap:anywhere]">{to(r)}</span> },
              { title: 'By', wide: true, cell: (r) => (r.spec.email ? `mail, ${r.spec.email.host}:${r.spec.email.port}, ${r.spec.email.tls === 'none' ? 'no TLS' : r.spec.email.tls}` : `webhook, ${r.spec.webhook?.format ?? ''}`) },
              { title: 'From', cell: (r) => <Mark word={r.spec.minSeverity} look={SEVERITIES[r.spec.minSeverity] ?? UNKNOWN} /> },
              { title: 'On', cell: (r) => (r.spec.enabled ? 'yes' : <span className="text-muted">no</span>) },
              {
                title: 'Actions',
                plain: true,
                right: true,
                cell: (r) => (
                  <Button small aria-label={`Change ${r.metadata.name}`} disabledReason={denied} onClick={() => setEditing(r)}>
                    Change…
                  </Button>
                ),
              },
            ]}
          />
        )}
      </Resource>
      {editing && <RouteDialog key={editing === 'new' ? 'new' : editing.metadata.uid} route={editing === 'new' ? undefined : editing} onMade={setSecret} onClose={() => setEditing(undefined)} />}
      {secret && (
        <Dialog
          title={`The secret of ${secret.name}`}
          onClose={() => setSecret(undefined)}
          footer={
            <Button kind="primary" onClick={() => setSecret(undefined)}>
              I have it
            </Button>
          }
        >
          <p className="mb-3">The receiver checks signatures with it. It is shown this once.</p>
          <Command text={secret.secret} />
        </Dialog>
      )}
    </Page>
  )
}

interface DialogProps {
  route: AlertRoute | undefined
  onMade: (secret: { name: string; secret: string }) => void
  onClose: () => void
}

function RouteDialog({ route, onMade, onClose }: DialogProps) {
  const client = useQueryClient()
  const [keyOf] = useState(keyring)
  const [name, setName] = useState(route?.metadata.name ?? '')
  const [draft, setDraft] = useState(() => draftOf(route?.spec))
  const [wrong, setWrong] = useState<string | undefined>()
  const set = (part: Partial<RouteDraft>): void => setDraft({ ...draft, ...part })
  const over = (done: string): void => {
    announce(done)
    void client.invalidateQueries({ queryKey: keys.alertRoutes })
    onClose()
  }
  const saving = useMutation({
    mutationFn: (spec: AlertRouteSpec) => save<AlertRoute>('/alert-routes', route, name, spec, keyOf([name, spec])),
    onSuccess: (made) => {
      if (made.status.secret !== undefined) onMade({ name: made.metadata.name, secret: made.status.secret })
      over('Route saved')
    },
  })
  const deleting = useMutation({ mutationFn: (uid: string) => del(`/alert-routes/${seg(uid)}`), onSuccess: () => over('Route deleted') })
  const error = (field: string): string | undefined => (saving.error instanceof ApiError ? saving.error.field(field) : undefined)
  const kept = route?.status.secretSet === true ? 'Kept as it is when left empty.' : undefined
  return (
    <Dialog
      title={route ? `Route ${route.metadata.name}` : 'New route'}
      onClose={onClose}
      footer={
        <>
          {route && (
            <Button kind="danger" busy={deleting.isPending} onClick={() => deleting.mutate(route.metadata.uid)}>
              Delete
            </Button>
          )}
          <Button onClick={onClose}>Cancel</Button>
          <Button
            kind="primary"
            busy={saving.isPending}
            onClick={() => {
              const spec = specOf(draft)
              setWrong(typeof spec === 'string' ? spec : undefined)
              if (typeof spec !== 'string') saving.mutate(spec)
            }}
          >
            Save
          </Button>
        </>
      }
    >
      <div className="grid gap-3 sm:grid-cols-2">
        {!route && (
          <Field label="Name" error={error('name')}>
            {(ids) => <input {...ids} className="field" spellCheck={false} value={name} onChange={(e) => setName(e.target.value.trim())} />}
          </Field>
        )}
        <Field label="By" error={error('type')}>
          {(ids) => (
            <select {...ids} className="field" value={draft.type} onChange={(e) => set({ type: e.target.value as RouteDraft['type'] })}>
              <option value="webhook">webhook</option>
              <option value="email">mail</option>
            </select>
          )}
        </Field>
        {draft.type === 'webhook' ? <Webhook draft={draft} set={set} error={error} kept={kept} /> : <Mail draft={draft} set={set} error={error} kept={kept} />}
        <Field label="From severity" error={error('minSeverity')}>
          {(ids) => (
            <select {...ids} className="field" value={draft.minSeverity} onChange={(e) => set({ minSeverity: e.target.value as Severity })}>
              <option>info</option>
              <option>warning</option>
              <option>critical</option>
            </select>
          )}
        </Field>
        <Field label="Gathered for (s)" help="Alerts of one rule in one place that come within it go in one message." error={error('groupWaitSeconds')}>
          {(ids) => <input {...ids} className="field" inputMode="numeric" value={draft.groupWaitSeconds} onChange={(e) => set({ groupWaitSeconds: e.target.value.trim() })} />}
        </Field>
        <Field label="Only alerts that match" className="sm:col-span-2" help="location=Riga, app!=web. Empty: all." error={wrong ?? error('matchers')}>
          {(ids) => <input {...ids} className="field font-mono" spellCheck={false} value={draft.matchers} onChange={(e) => set({ matchers: e.target.value })} />}
        </Field>
        <label className="flex items-center gap-2">
          <input type="checkbox" checked={draft.enabled} onChange={(e) => set({ enabled: e.target.checked })} />
          On
        </label>
        <label className="flex items-center gap-2">
          <input type="checkbox" checked={draft.sendResolved} onChange={(e) => set({ sendResolved: e.target.checked })} />
          Also tell when an alert is over
        </label>
        <div className="sm:col-span-2">
          {saving.isError && <Failure what="It was not saved" error={saving.error} />}
          {deleting.isError && <Failure what="It was not deleted" error={deleting.error} />}
        </div>
      </div>
    </Dialog>
  )
}

interface PartProps {
  draft: RouteDraft
  set: (part: Partial<RouteDraft>) => void
  error: (field: string) => string | undefined
  kept: string | undefined
}

function Webhook({ draft, set, error, kept }: PartProps) {
  return (
    <>
      <Field label="Address" className="sm:col-span-2" error={error('url')}>
        {(ids) => <input {...ids} className="field" inputMode="url" spellCheck={false} placeholder="https://hooks.example.com/farshore" value={draft.url} onChange={(e) => set({ url: e.target.value.trim() })} />}
      </Field>
      <Field label="Form" error={error('format')}>
        {(ids) => (
          <select {...ids} className="field" value={draft.format} onChange={(e) => set({ format: e.target.value as RouteDraft['format'] })}>
            <option value="farshore">Farshore</option>
            <option value="alertmanager">Alertmanager</option>
          </select>
        )}
      </Field>
      <Field label="Secret" help={kept ?? 'One is made and shown once when left empty.'} error={error('secret')}>
        {(ids) => <input {...ids} type="password" autoComplete="new-password" className="field" placeholder="whsec_…" value={draft.secret} onChange={(e) => set({ secret: e.target.value.trim() })} />}
      </Field>
    </>
  )
}

function Mail({ draft, set, error, kept }: PartProps) {
  return (
    <>
      <Field label="To" className="sm:col-span-2" help="Addresses, with commas between them." error={error('to')}>
        {(ids) => <input {...ids} className="field" spellCheck={false} value={draft.to} onChange={(e) => set({ to: e.target.value })} />}
      </Field>
      <Field label="Sender" error={error('from')}>
        {(ids) => <input {...ids} className="field" spellCheck={false} value={draft.from} onChange={(e) => set({ from: e.target.value })} />}
      </Field>
      <Field label="Mail server" error={error('host')}>
        {(ids) => <input {...ids} className="field" spellCheck={false} placeholder="mail.example.com" value={draft.host} onChange={(e) => set({ host: e.target.value.trim() })} />}
      </Field>
      <Field label="TLS" error={error('tls')}>
        {(ids) => (
          <select
            {...ids}
            className="field"
            value={draft.tls}
            onChange={(e) => {
              const tls = e.target.value as RouteDraft['tls']
              const usual = { starttls: '587', tls: '465', none: '25' }
              set({ tls, port: Object.values(usual).includes(draft.port) ? usual[tls] : draft.port })
            }}
          >
            <option value="starttls">STARTTLS</option>
            <option value="tls">from the first byte</option>
            <option value="none">none</option>
          </select>
        )}
      </Field>
      <Field label="Port" error={error('port')}>
        {(ids) => <input {...ids} className="field" inputMode="numeric" value={draft.port} onChange={(e) => set({ port: e.target.value.trim() })} />}
      </Field>
      {draft.tls !== 'none' && (
        <Field label="Authority" className="sm:col-span-2" help="Certificates in PEM: only servers of these are talked to. Empty: those that the server’s machine knows." error={error('ca')}>
          {(ids) => <textarea {...ids} rows={3} className="field font-mono text-sm" spellCheck={false} placeholder="-----BEGIN CERTIFICATE-----" value={draft.ca} onChange={(e) => set({ ca: e.target.value })} />}
        </Field>
      )}
      <Field label="User" error={error('username')}>
        {(ids) => <input {...ids} className="field" autoComplete="off" spellCheck={false} value={draft.username} onChange={(e) => set({ username: e.target.value.trim() })} />}
      </Field>
      <Field label="Password" help={kept} error={error('password')}>
        {(ids) => <input {...ids} type="password" autoComplete="new-password" className="field" value={draft.password} onChange={(e) => set({ password: e.target.value })} />}
      </Field>
    </>
  )
}
