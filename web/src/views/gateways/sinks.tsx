/** Where readings go on to: list with how each sink stands, and the form. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, del, keyring, seg } from '~/api/client'
import { keys } from '~/api/queries'
import { saveSink, sinksQuery, type Sink, type SinkSpec } from '~/api/sinks'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { Icon } from '~/ui/icon'
import { Mark } from '~/ui/mark'
import { count, plural } from '~/ui/number'
import { Empty, Failure } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import type { Look } from '~/ui/state'
import { Table } from '~/ui/table'
import { Time } from '~/ui/time'

import { draftOf, specOf, type SinkDraft } from './sink-draft'

const STATES: Record<Sink['status']['state'], Look> = {
  running: { shape: 'full', tone: 'ok', means: 'What arrives is handed over.' },
  failing: { shape: 'bang', tone: 'warn', means: 'The last attempt failed; it is tried again. Nothing is lost as long as readings are kept.' },
  disabled: { shape: 'ring', tone: 'quiet', means: 'Nothing is handed over until it is on again.' },
}
const UNKNOWN: Look = { shape: 'question', tone: 'quiet', means: 'A word that this page does not know.' }

const to = ({ spec, status }: Sink): string => spec.webhook?.url ?? spec.otlp?.url ?? status.folder ?? ''

export function Sinks() {
  const sinks = useQuery(sinksQuery)
  const denied = useDenied('fleet.write')
  const [editing, setEditing] = useState<Sink | 'new' | undefined>()
  const [secret, setSecret] = useState<{ name: string; secret: string } | undefined>()
  return (
    <section className="flex min-w-0 flex-col gap-2">
      <header className="flex flex-wrap items-center justify-between gap-x-4 gap-y-1">
        <h2 className="font-semibold">Sinks</h2>
        <div className="flex flex-wrap items-center gap-1">
          <CopyButton label="Command" text="farshore get sinks" />
          <Button small disabledReason={denied} onClick={() => setEditing('new')}>
            <Icon name="plus" size={14} />
            New sink…
          </Button>
        </div>
      </header>
      <Resource
        query={sinks}
        what="sinks"
        empty={
          <Empty title="Readings go nowhere else">
            <p>A sink hands on what gateways send: to a signed webhook, to a collector of OpenTelemetry, or into Parquet files by the hour.</p>
            <Command text="farshore apply -f sink.yaml" />
          </Empty>
        }
      >
        {(items) => (
          <Table
            label="Sinks"
            items={items}
            id={(s) => s.metadata.uid}
            columns={[
              { title: 'Name', cell: (s) => <span className="font-medium">{s.metadata.name}</span> },
              { title: 'To', wide: true, cell: (s) => <span className="[overflow-wrap:anywhere]">{s.spec.type}, {to(s)}</span> },
              {
                title: 'State',
                plain: true,
                cell: (s) => (
                  <span className="flex min-w-0 flex-col">
                    <Mark word={s.status.state} look={STATES[s.status.state] ?? UNKNOWN} />
                    {s.status.state === 'failing' && (
                      <span className="text-sm text-muted [overflow-wrap:anywhere]">
                        {s.status.lastError}
                        {s.status.nextAt !== undefined && (
                          <>
                            , again <Time at={s.status.nextAt} />
                          </>
                        )}
                      </span>
                    )}
                  </span>
                ),
              },
              { title: 'Waiting', right: true, cell: (s) => plural(s.status.waitingBatches, 'batch', 'batches') },
              { title: 'Handed over', wide: true, right: true, cell: (s) => plural(s.status.deliveredPoints, 'reading') },
              { title: 'Passed over', wide: true, right: true, cell: (s) => <span className={s.status.skippedBatches > 0 ? 'text-warn' : 'text-muted'}>{count(s.status.skippedBatches)}</span> },
              { title: 'Last', wide: true, right: true, cell: (s) => (s.status.lastDeliveredAt ? <Time at={s.status.lastDeliveredAt} className="text-muted" /> : <span className="text-muted">never</span>) },
              {
                title: 'Actions',
                plain: true,
                right: true,
                cell: (s) => (
                  <Button small aria-label={`Change ${s.metadata.name}`} disabledReason={denied} onClick={() => setEditing(s)}>
                    Change…
                  </Button>
                ),
              },
            ]}
          />
        )}
      </Resource>
      {editing && <SinkDialog key={editing === 'new' ? 'new' : editing.metadata.uid} sink={editing === 'new' ? undefined : editing} onMade={setSecret} onClose={() => setEditing(undefined)} />}
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
    </section>
  )
}

interface DialogProps {
  sink: Sink | undefined
  onMade: (secret: { name: string; secret: string }) => void
  onClose: () => void
}

function SinkDialog({ sink, onMade, onClose }: DialogProps) {
  const client = useQueryClient()
  const [keyOf] = useState(keyring)
  const [name, setName] = useState(sink?.metadata.name ?? '')
  const [draft, setDraft] = useState(() => draftOf(sink?.spec))
  const set = (part: Partial<SinkDraft>): void => setDraft({ ...draft, ...part })
  const over = (done: string): void => {
    announce(done)
    void client.invalidateQueries({ queryKey: keys.sinks })
    onClose()
  }
  const saving = useMutation({
    mutationFn: (spec: SinkSpec) => saveSink(sink, name, spec, keyOf([name, spec])),
    onSuccess: (made) => {
      if (made.status.secret !== undefined) onMade({ name: made.metadata.name, secret: made.status.secret })
      over('Sink saved')
    },
  })
  const deleting = useMutation({ mutationFn: (uid: string) => del(`/sinks/${seg(uid)}`), onSuccess: () => over('Sink deleted') })
  const error = (field: string): string | undefined => (saving.error instanceof ApiError ? saving.error.field(field) : undefined)
  const kept = sink?.status.secretSet === true ? 'Kept as it is when left empty.' : undefined
  return (
    <Dialog
      title={sink ? `Sink ${sink.metadata.name}` : 'New sink'}
      onClose={onClose}
      footer={
        <>
          {sink && (
            <Button kind="danger" busy={deleting.isPending} onClick={() => deleting.mutate(sink.metadata.uid)}>
              Delete
            </Button>
          )}
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" busy={saving.isPending} onClick={() => saving.mutate(specOf(draft))}>
            Save
          </Button>
        </>
      }
    >
      <div className="grid gap-3 sm:grid-cols-2">
        {!sink && (
          <Field label="Name" error={error('name')}>
            {(ids) => <input {...ids} className="field" spellCheck={false} value={name} onChange={(e) => setName(e.target.value.trim())} />}
          </Field>
        )}
        {!sink && (
          <Field label="To" error={error('type')}>
            {(ids) => (
              <select {...ids} className="field" value={draft.type} onChange={(e) => set({ type: e.target.value as SinkDraft['type'] })}>
                <option value="webhook">webhook</option>
                <option value="otlp">OTLP over HTTP</option>
                <option value="parquet">Parquet files</option>
              </select>
            )}
          </Field>
        )}
        <Target draft={draft} set={set} error={error} kept={kept} />
        <Field label="Streams" help="data/default, alert/*. Empty: data/*." error={error('streams')}>
          {(ids) => <input {...ids} className="field font-mono" spellCheck={false} value={draft.streams} onChange={(e) => set({ streams: e.target.value })} />}
        </Field>
        <Field label="Measurements" help="With commas between. Empty: all." error={error('measurements')}>
          {(ids) => <input {...ids} className="field font-mono" spellCheck={false} value={draft.measurements} onChange={(e) => set({ measurements: e.target.value })} />}
        </Field>
        <Field label="Gateways whose labels match" className="sm:col-span-2" help="site=riga, role in (hall, yard). Empty: all." error={error('selector')}>
          {(ids) => <input {...ids} className="field font-mono" spellCheck={false} value={draft.selector} onChange={(e) => set({ selector: e.target.value })} />}
        </Field>
        {!sink && (
          <Field label="Begins with" error={error('start')}>
            {(ids) => (
              <select {...ids} className="field" value={draft.start} onChange={(e) => set({ start: e.target.value as SinkDraft['start'] })}>
                <option value="now">what arrives from now on</option>
                <option value="earliest">the oldest that is kept</option>
              </select>
            )}
          </Field>
        )}
        <label className="flex items-center gap-2">
          <input type="checkbox" checked={draft.enabled} onChange={(e) => set({ enabled: e.target.checked })} />
          On
        </label>
        <div className="sm:col-span-2">
          {saving.isError && <Failure what="It was not saved" error={saving.error} />}
          {deleting.isError && <Failure what="It was not deleted" error={deleting.error} />}
        </div>
      </div>
    </Dialog>
  )
}

interface TargetProps {
  draft: SinkDraft
  set: (part: Partial<SinkDraft>) => void
  error: (field: string) => string | undefined
  kept: string | undefined
}

function Target({ draft, set, error, kept }: TargetProps) {
  if (draft.type === 'parquet') {
    return (
      <>
        <Field label="Written every (s)" error={error('everySeconds')}>
          {(ids) => <input {...ids} className="field" inputMode="numeric" value={draft.everySeconds} onChange={(e) => set({ everySeconds: e.target.value.trim() })} />}
        </Field>
        <Field label="Kept for (days)" error={error('keepDays')}>
          {(ids) => <input {...ids} className="field" inputMode="numeric" value={draft.keepDays} onChange={(e) => set({ keepDays: e.target.value.trim() })} />}
        </Field>
      </>
    )
  }
  const otlp = draft.type === 'otlp'
  return (
    <>
      <Field label="Address" className="sm:col-span-2" error={error('url')}>
        {(ids) => (
          <input {...ids} className="field" inputMode="url" spellCheck={false} placeholder={otlp ? 'https://collector.example.com:4318' : 'https://hooks.example.com/readings'} value={draft.url} onChange={(e) => set({ url: e.target.value.trim() })} />
        )}
      </Field>
      <Field label={otlp ? 'Authorization' : 'Secret'} className="sm:col-span-2" help={kept ?? (otlp ? 'Sent as it is. Empty: none.' : 'One is made and shown once when left empty.')} error={error(otlp ? 'authorization' : 'secret')}>
        {(ids) => <input {...ids} type="password" autoComplete="new-password" className="field" placeholder={otlp ? 'Bearer …' : 'whsec_…'} value={draft.secret} onChange={(e) => set({ secret: e.target.value.trim() })} />}
      </Field>
    </>
  )
}
