/** The twin of a device and its documents: what is desired and not reported, history, and conflicts. Nothing for a device that never asked for any. */
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { conflictsQuery, decide, desire, documentQuery, documentsQuery, historyQuery, MOST_DOCUMENTS, parseObject, twinQuery, writeDocument, type DocumentConflict, type DocumentOf, type Json, type Twin } from '~/api/documents'
import { keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { bytes, plural } from '~/ui/number'
import { Failure, Loading, Section } from '~/ui/panel'
import { Time } from '~/ui/time'

const pretty = (value: unknown): string => JSON.stringify(value, null, 2)
const line = (value: unknown): string => (value === undefined ? '–' : JSON.stringify(value))

export function DeviceDocuments({ device }: { device: string }) {
  const twin = useQuery(twinQuery(device))
  const documents = useQuery(documentsQuery(device))
  const conflicts = useQuery(conflictsQuery(device))
  const others = documents.data?.items.filter((one) => one.collection !== 'twin') ?? []
  const used = twin.data !== undefined && (twin.data.sync.syncedAt !== undefined || twin.data.desired.version > 0 || others.length > 0)
  if (twin.isError) {
    return (
      <Section title="Twin">
        <Failure what="The twin can’t be shown" error={twin.error} retry={() => void twin.refetch()} />
      </Section>
    )
  }
  if (!used) return null
  return (
    <>
      <TwinPanel device={device} twin={twin.data} />
      <Section
        title="Documents"
        flush
        actions={
          <span className="text-sm text-muted">
            {twin.data.sync.pending > 0 && (
              <span className="text-warn">
                {plural(twin.data.sync.pending, 'document')} not sent yet, since <Time at={twin.data.sync.pendingSince} />;{' '}
              </span>
            )}
            asked <Time at={twin.data.sync.syncedAt} />
          </span>
        }
      >
        {documents.isError || conflicts.isError ? (
          <div className="p-4">
            <Failure what="The documents can’t be listed" error={documents.error ?? conflicts.error} retry={() => void Promise.all([documents.refetch(), conflicts.refetch()])} />
          </div>
        ) : documents.isPending || conflicts.isPending ? (
          <div className="p-4">
            <Loading what="documents" lines={2} />
          </div>
        ) : (
          <>
            <Conflicts conflicts={conflicts.data.items} device={device} />
            <DocumentList device={device} documents={others} />
          </>
        )}
      </Section>
    </>
  )
}

function TwinPanel({ device, twin }: { device: string; twin: Twin }) {
  const [changing, setChanging] = useState(false)
  const denied = useDenied('device.write')
  return (
    <Section
      title="Twin"
      actions={
        <Button small disabledReason={denied} onClick={() => setChanging(true)}>
          Change desired…
        </Button>
      }
    >
      {twin.pending.length > 0 ? (
        <ul aria-label="Desired and not reported" className="mb-3 flex flex-col gap-1">
          {twin.pending.map((one) => (
            <li key={one.path} className="flex flex-wrap items-baseline gap-x-2 [overflow-wrap:anywhere]">
              <span className="text-warn">pending</span>
              <code className="font-mono text-sm">{one.path}</code>
              <span>
                {line(one.reported)} → <strong className="font-medium">{line(one.desired)}</strong>
              </span>
              <span className="text-sm text-muted">
                asked for <Time at={one.since} />
                {twin.delivered ? '' : ', not on the device yet'}
              </span>
            </li>
          ))}
        </ul>
      ) : (
        <p className="mb-3 text-muted">{twin.desired.version === 0 ? 'Nothing is desired of this device.' : 'Everything that is desired is reported.'}</p>
      )}
      <div className="grid gap-4 sm:grid-cols-2">
        {([['Desired', twin.desired], ['Reported', twin.reported]] as const).map(([title, half]) => (
          <figure key={title} className="min-w-0">
            <figcaption className="mb-1 text-sm text-muted">
              {title}
              {half.version > 0 && (
                <>
                  , version {half.version}, <Time at={half.changedAt} />
                </>
              )}
            </figcaption>
            <JsonText value={half.value} label={title} />
          </figure>
        ))}
      </div>
      {changing && <DesireDialog device={device} twin={twin} onClose={() => setChanging(false)} />}
    </Section>
  )
}

function JsonText({ value, label }: { value: unknown; label: string }) {
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- it scrolls
    <pre tabIndex={0} role="region" aria-label={label} className="max-h-72 overflow-auto rounded border border-line bg-sunken p-2 font-mono text-sm whitespace-pre-wrap [overflow-wrap:anywhere]">
      {pretty(value)}
    </pre>
  )
}

interface EditProps {
  title: string
  label: string
  help: string
  start: Json
  save: (value: Json) => Promise<unknown>
  device: string
  onClose: () => void
}

function EditDialog({ title, label, help, start, save, device, onClose }: EditProps) {
  const client = useQueryClient()
  const [text, setText] = useState(() => pretty(start))
  const [wrong, setWrong] = useState<string | undefined>()
  const [error, setError] = useState<unknown>()
  const [busy, setBusy] = useState(false)
  const send = async (): Promise<void> => {
    const parsed = parseObject(text)
    if ('wrong' in parsed) {
      setWrong(parsed.wrong)
      return
    }
    setBusy(true)
    setError(undefined)
    try {
      await save(parsed.value)
      await client.invalidateQueries({ queryKey: [...keys.documents, device] })
      announce(`${title}: saved`)
      onClose()
    } catch (failed) {
      setError(failed)
      setBusy(false)
    }
  }
  return (
    <Dialog
      wide
      title={title}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" busy={busy} onClick={() => void send()}>
            Save
          </Button>
        </>
      }
    >
      {error !== undefined && (
        <div className="mb-3">
          <Failure what="It was not saved" error={error} />
        </div>
      )}
      <Field label={label} help={help} error={wrong}>
        {(ids) => (
          <textarea
            {...ids}
            rows={14}
            spellCheck={false}
            className="field h-auto w-full font-mono text-sm"
            value={text}
            onChange={(event) => {
              setText(event.target.value)
              setWrong(undefined)
            }}
          />
        )}
      </Field>
    </Dialog>
  )
}

function DesireDialog({ device, twin, onClose }: { device: string; twin: Twin; onClose: () => void }) {
  return (
    <EditDialog
      title="Change what is desired"
      label="Desired"
      help="A JSON object. What you take away is deleted; the device gets the rest as it is."
      start={twin.desired.value}
      save={(value) => desire(device, twin.desired.version, patchOf(twin.desired.value, value))}
      device={device}
      onClose={onClose}
    />
  )
}

/** The JSON Merge Patch that makes one object of another. */
export function patchOf(from: Json, to: Json): Json {
  const patch: Json = {}
  for (const name of Object.keys(from)) if (!(name in to)) patch[name] = null
  for (const [name, value] of Object.entries(to)) {
    const before = from[name]
    if (JSON.stringify(before) === JSON.stringify(value)) continue
    patch[name] = isObject(before) && isObject(value) ? patchOf(before, value) : value
  }
  return patch
}

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

function DocumentList({ device, documents }: { device: string; documents: DocumentOf[] }) {
  const [opened, setOpened] = useState<DocumentOf | undefined>()
  if (documents.length === 0) return <p className="px-4 py-3 text-muted">This device has no documents.</p>
  return (
    <>
      <ul className="divide-y divide-line">
        {documents.map((one) => (
          <li key={`${one.collection}/${one.name}`}>
            <button type="button" onClick={() => setOpened(one)} className="flex w-full flex-wrap items-baseline justify-between gap-x-4 px-4 py-2 text-left hover:bg-hover">
              <span className="min-w-0 font-medium [overflow-wrap:anywhere]">
                {one.collection}/{one.name}
              </span>
              <span className="text-sm text-muted">
                {!one.delivered && <span className="text-warn">not on the device yet, </span>}
                revision {one.revision}, {bytes(one.bytes)}, <Time at={one.changedAt} /> by {one.author}
              </span>
            </button>
          </li>
        ))}
      </ul>
      {documents.length >= MOST_DOCUMENTS && (
        <p className="border-t border-line px-4 py-2 text-sm text-muted">
          There may be more; <code className="font-mono">farshore document list</code> shows all.
        </p>
      )}
      {opened && <DocumentDialog device={device} of={opened} onClose={() => setOpened(undefined)} />}
    </>
  )
}

function DocumentDialog({ device, of, onClose }: { device: string; of: DocumentOf; onClose: () => void }) {
  const document = useQuery(documentQuery(device, of.collection, of.name))
  const history = useQuery(historyQuery(device, of.collection, of.name))
  const [editing, setEditing] = useState(false)
  const denied = useDenied('device.write')
  const title = `${of.collection}/${of.name}`
  const shown = document.data
  if (editing && shown) {
    return (
      <EditDialog
        title={`Change ${title}`}
        label="Document"
        help="A JSON object, as a whole. If it was changed meanwhile, yours is not saved."
        start={shown.value ?? {}}
        save={(value) => writeDocument(device, shown, value)}
        device={device}
        onClose={() => setEditing(false)}
      />
    )
  }
  return (
    <Dialog
      wide
      title={title}
      onClose={onClose}
      footer={
        <Button disabledReason={denied ?? (shown === undefined ? 'It is not here yet.' : undefined)} onClick={() => setEditing(true)}>
          Edit…
        </Button>
      }
    >
      {document.isError ? (
        <Failure what="The document can’t be shown" error={document.error} retry={() => void document.refetch()} />
      ) : shown === undefined ? (
        <Loading what="the document" />
      ) : (
        <JsonText value={shown.value} label="Document" />
      )}
      <h3 className="mt-4 mb-1 font-semibold">History</h3>
      {history.isError ? (
        <Failure what="The history can’t be shown" error={history.error} retry={() => void history.refetch()} />
      ) : history.isPending ? (
        <Loading what="the history" lines={3} />
      ) : (
        <ol className="divide-y divide-line border-t border-line">
          {history.data.items.map((one) => (
            <li key={one.revision} className="py-2">
              <p className="text-sm text-muted">
                Revision {one.revision}, {CAUSES[one.cause] ?? one.cause}, by {one.author}, <Time at={one.at} />
              </p>
              <Changes changes={one.changes} value={one.value} />
            </li>
          ))}
        </ol>
      )}
    </Dialog>
  )
}

const CAUSES: Record<string, string> = {
  edit: 'changed in the cloud',
  sync: 'changed on the device',
  merge: 'both sides put together',
  resolve: 'a conflict decided',
  restore: 'a value brought back',
}

function Changes({ changes, value }: { changes: Json | undefined; value: Json | undefined }) {
  if (value === undefined) return <p>deleted</p>
  if (changes === undefined) return <p className="font-mono text-sm [overflow-wrap:anywhere]">{line(value)}</p>
  return (
    <ul className="font-mono text-sm">
      {leaves('', changes).map(([path, to]) => (
        <li key={path} className="[overflow-wrap:anywhere]">
          {to === null ? (
            <span className="text-bad">− {path}</span>
          ) : (
            <>
              {path}: {line(to)}
            </>
          )}
        </li>
      ))}
    </ul>
  )
}

/** The leaves of a patch by their places. */
function leaves(above: string, patch: Json): [string, unknown][] {
  return Object.entries(patch).flatMap(([name, value]): [string, unknown][] => {
    const path = `${above}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`
    return isObject(value) && Object.keys(value).length > 0 ? leaves(path, value) : [[path, value]]
  })
}

function Conflicts({ conflicts, device }: { conflicts: DocumentConflict[]; device: string }) {
  const [all, setAll] = useState(false)
  const open = conflicts.filter((one) => one.open)
  const settled = conflicts.filter((one) => !one.open)
  if (conflicts.length === 0) return null
  return (
    <div className="border-b border-line">
      <div className="flex flex-wrap items-baseline justify-between gap-x-4 px-4 pt-3">
        <h3 className="font-semibold">{open.length > 0 ? `${plural(open.length, 'conflict')} to decide` : 'Conflicts'}</h3>
        {settled.length > 0 && (
          <Button kind="ghost" small aria-expanded={all} onClick={() => setAll(!all)}>
            {all ? 'Hide' : 'Show'} {settled.length} decided
          </Button>
        )}
      </div>
      <ul className="divide-y divide-line">
        {[...open, ...(all ? settled : [])].map((one) => (
          <Conflict key={one.uid} conflict={one} device={device} />
        ))}
      </ul>
    </div>
  )
}

const WINNERS: Record<DocumentConflict['winner'], string> = {
  edge: 'the device’s value stayed',
  cloud: 'the cloud’s value stayed',
  resolver: 'the resolver decided',
  open: 'nobody has chosen; the cloud’s value is in place',
}

function Conflict({ conflict, device }: { conflict: DocumentConflict; device: string }) {
  const client = useQueryClient()
  const denied = useDenied('device.write')
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState<unknown>()
  const choose = async (side: 'edge' | 'cloud'): Promise<void> => {
    setBusy(true)
    setError(undefined)
    try {
      await decide(conflict, side)
      announce('The conflict is decided')
      await client.invalidateQueries({ queryKey: [...keys.documents, device] })
    } catch (failed) {
      setError(failed)
    }
    setBusy(false)
  }
  const word = conflict.open ? 'Keep' : 'Bring back'
  return (
    <li className="px-4 py-3">
      <p className="[overflow-wrap:anywhere]">
        <span className="font-medium">
          {conflict.collection}/{conflict.name}
        </span>{' '}
        <code className="font-mono text-sm">{conflict.path || 'as a whole'}</code>{' '}
        <span className="text-sm text-muted">
          {conflict.rule.strategy}, {conflict.chosen === undefined ? WINNERS[conflict.winner] : `${conflict.settledBy ?? 'somebody'} chose ${conflict.chosen === 'edge' ? 'the device’s' : conflict.chosen}`}, <Time at={conflict.at} />
        </span>
      </p>
      {conflict.note !== undefined && <p className="text-sm text-warn [overflow-wrap:anywhere]">{conflict.note}</p>}
      <dl className="my-2 grid gap-x-6 gap-y-1 sm:grid-cols-2">
        {(
          [
            ['Device', conflict.edge, conflict.edgeAt, undefined],
            ['Cloud', conflict.cloud, conflict.cloudAt, conflict.cloudBy],
          ] as const
        ).map(([title, value, at, by]) => (
          <div key={title} className="min-w-0">
            <dt className="text-sm text-muted">
              {title}
              {by !== undefined && `, ${by}`}, <Time at={at} />
            </dt>
            <dd className="max-h-32 overflow-auto font-mono text-sm [overflow-wrap:anywhere]">{line(value)}</dd>
          </div>
        ))}
      </dl>
      <div className="flex flex-wrap gap-2">
        <Button small busy={busy} disabledReason={denied} onClick={() => void choose('edge')}>
          {word} the device’s
        </Button>
        <Button small busy={busy} disabledReason={denied} onClick={() => void choose('cloud')}>
          {word} the cloud’s
        </Button>
      </div>
      {error !== undefined && (
        <div className="mt-2">
          <Failure what="It was not decided" error={error} />
        </div>
      )}
    </li>
  )
}
