/** Keys of gateways that have no certificate: make, look at, revoke. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import { useState } from 'react'

import { ApiError, keyring, post, seg } from '~/api/client'
import { gatewayKeysQuery, type GatewayKey } from '~/api/gateways'
import { keys, summaryQuery } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { Icon } from '~/ui/icon'
import { Empty, Failure } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Revoke } from '~/ui/revoke'
import { Table } from '~/ui/table'
import { Time } from '~/ui/time'

const DAY = 24 * 3600
const LIFETIMES = [
  [30 * DAY, '30 days'],
  [90 * DAY, '90 days'],
  [365 * DAY, 'a year'],
] as const

export function GatewayKeys() {
  const all = useQuery(gatewayKeysQuery)
  const denied = useDenied('claim.write')
  const [adding, setAdding] = useState(false)
  const [revoking, setRevoking] = useState<GatewayKey | undefined>()
  return (
    <section className="flex min-w-0 flex-col gap-2">
      <header className="flex flex-wrap items-center justify-between gap-x-4 gap-y-1">
        <h2 className="font-semibold">Keys of gateways that are not claimed</h2>
        <div className="flex flex-wrap items-center gap-1">
          <CopyButton label="Command" text="farshore get gateway-keys" />
          <Button small disabledReason={denied} onClick={() => setAdding(true)}>
            <Icon name="plus" size={14} />
            New key…
          </Button>
        </div>
      </header>
      <Resource
        query={all}
        what="gateway keys"
        empty={
          <Empty title="No gateway keys">
            <p>A gateway on a device that is not claimed sends with a key. It lets one device send its readings and exchange its documents, and nothing else.</p>
            <Command text="farshore sync create-key hall-gateway" />
          </Empty>
        }
      >
        {(items) => (
          <Table
            label="Gateway keys"
            items={items}
            id={(k) => k.metadata.uid}
            columns={[
              { title: 'Key', cell: (k) => <span className="font-medium">{k.metadata.name}</span> },
              {
                title: 'Device',
                cell: (k) => (
                  <Link to="/devices/$id" params={{ id: k.spec.device }} className="hover:text-accent">
                    {k.spec.device}
                  </Link>
                ),
              },
              { title: 'Expires', cell: (k) => <Time at={k.status.expiresAt} /> },
              { title: 'Last used', wide: true, cell: (k) => (k.status.lastUsedAt ? <Time at={k.status.lastUsedAt} className="text-muted" /> : <span className="text-muted">never</span>) },
              {
                title: 'Actions',
                plain: true,
                right: true,
                cell: (k) => (
                  <Button small kind="danger" disabledReason={denied} aria-label={`Revoke ${k.metadata.name}…`} onClick={() => setRevoking(k)}>
                    Revoke…
                  </Button>
                ),
              },
            ]}
          />
        )}
      </Resource>
      {adding && <NewKey onClose={() => setAdding(false)} />}
      {revoking && (
        <Revoke
          name={revoking.metadata.name}
          noun="key"
          done="Gateway key revoked"
          path={`/gateway-keys/${seg(revoking.metadata.uid)}`}
          queryKey={keys.gatewayKeys}
          onClose={() => setRevoking(undefined)}
        >
          The gateway on {revoking.spec.device} sends nothing more with it, and keeps what it takes. Another key of the device, and what it has sent, stay.
        </Revoke>
      )}
    </section>
  )
}

/** A name that says for which device, and is free on each day. */
const proposed = (device: string): string => `${device}-${new Date().toISOString().slice(0, 10)}`

function NewKey({ onClose }: { onClose: () => void }) {
  const client = useQueryClient()
  const summary = useQuery(summaryQuery())
  const [device, setDevice] = useState('')
  const [location, setLocation] = useState('')
  const [lifetime, setLifetime] = useState<number>(90 * DAY)
  const [keyFor] = useState(keyring)
  const make = useMutation({
    mutationFn: () => {
      const body = { metadata: { name: proposed(device) }, spec: { device, location, lifetimeSeconds: lifetime } }
      return post<GatewayKey>('/gateway-keys', body, keyFor(body))
    },
    onSuccess: () => {
      announce('Gateway key made')
      void client.invalidateQueries({ queryKey: keys.gatewayKeys })
    },
  })
  const problem = make.error instanceof ApiError ? make.error : undefined
  if (make.data) {
    return (
      <Dialog title={`The key of ${make.data.spec.device}`} onClose={onClose} wide footer={<Button onClick={onClose}>I have it</Button>}>
        <div className="flex flex-col gap-4">
          <p>
            Give it to the gateway as <code className="font-mono text-sm">CLOUD_API_KEY</code>. It ends <Time at={make.data.status.expiresAt} />, and is not shown again.
          </p>
          {make.data.status.key !== undefined && <Command text={`CLOUD_API_KEY=${make.data.status.key}`} />}
        </div>
      </Dialog>
    )
  }
  const missing = device === '' ? 'Say for which device.' : undefined
  return (
    <Dialog
      title="New gateway key"
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" busy={make.isPending} disabledReason={missing} onClick={() => make.mutate()}>
            Make the key
          </Button>
        </>
      }
    >
      <form
        className="grid gap-4 sm:grid-cols-2"
        onSubmit={(event) => {
          event.preventDefault()
          if (missing === undefined) make.mutate()
        }}
      >
        <p className="text-muted sm:col-span-2">For a gateway on a device that is not claimed. A device of another name is registered with the key.</p>
        <Field label="Device" error={problem?.field('spec.device') ?? problem?.field('metadata.name')}>
          {(ids) => <input {...ids} className="field" placeholder="hall-gateway" value={device} onChange={(e) => setDevice(e.target.value.trim())} />}
        </Field>
        <Field label="Location" error={problem?.field('spec.location')}>
          {(ids) => (
            <>
              <input {...ids} list="key-places" className="field" placeholder="riga-1" value={location} onChange={(e) => setLocation(e.target.value)} />
              <datalist id="key-places">{summary.data?.byLocation.map((l) => <option key={l.location} value={l.location} />)}</datalist>
            </>
          )}
        </Field>
        <Field label="Good for" error={problem?.field('spec.lifetimeSeconds')}>
          {(ids) => (
            <select {...ids} className="field" value={lifetime} onChange={(e) => setLifetime(Number(e.target.value))}>
              {LIFETIMES.map(([seconds, text]) => (
                <option key={seconds} value={seconds}>
                  {text}
                </option>
              ))}
            </select>
          )}
        </Field>
        {make.isError && (
          <div className="sm:col-span-2">
            <Failure what="No key was made" error={make.error} />
          </div>
        )}
      </form>
    </Dialog>
  )
}
