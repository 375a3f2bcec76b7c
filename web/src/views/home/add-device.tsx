/** "Add a device": makes a claim token and shows the command to type on the device. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, keyring, post } from '~/api/client'
import { channelsQuery, keys, summaryQuery } from '~/api/queries'
import type { ClaimToken } from '~/api/types'
import { useDenied } from '~/frame/me'
import { Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Field, parseLabels } from '~/ui/form'
import { plural } from '~/ui/number'
import { Failure } from '~/ui/panel'
import { Time } from '~/ui/time'

const LIFETIMES = [
  [3600, '1 hour'],
  [8 * 3600, '8 hours'],
  [24 * 3600, '1 day'],
  [7 * 24 * 3600, '7 days'],
  [30 * 24 * 3600, '30 days'],
] as const

function proposedName(): string {
  const now = new Date()
  const two = (n: number): string => String(n).padStart(2, '0')
  return `token-${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}-${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`
}

export function AddDevice({ onClose }: { onClose: () => void }) {
  const client = useQueryClient()
  const denied = useDenied('claim.write')
  const channels = useQuery(channelsQuery)
  const summary = useQuery(summaryQuery())
  const [name, setName] = useState(proposedName)
  const [channel, setChannel] = useState('')
  const [location, setLocation] = useState('')
  const [labels, setLabels] = useState('')
  const [lifetime, setLifetime] = useState<number>(3600)
  const [uses, setUses] = useState(1)
  const [keyFor] = useState(keyring)
  const parsed = parseLabels(labels)
  const names = [...new Set([...(channels.data?.items.map((c) => c.metadata.name) ?? []), ...(summary.data?.channels ?? [])])]

  const make = useMutation({
    mutationFn: () => {
      const body = {
        metadata: { name },
        spec: {
          ...('labels' in parsed && Object.keys(parsed.labels).length > 0 ? { labels: parsed.labels } : {}),
          ...(channel === '' ? {} : { channel }),
          location,
          lifetimeSeconds: lifetime,
          uses,
        },
      }
      return post<ClaimToken>('/claim-tokens', body, keyFor(body))
    },
    onSuccess: () => void client.invalidateQueries({ queryKey: keys.claimTokens }),
  })
  const problem = make.error instanceof ApiError ? make.error : undefined

  if (make.data) {
    const { status } = make.data
    return (
      <Dialog title="Type this on the device" onClose={onClose} wide footer={<Button onClick={onClose}>Done</Button>}>
        <div className="flex flex-col gap-4">
          <p>
            Install <code className="font-mono text-sm">farshore-agent</code> on the device, then type this there. It is good for{' '}
            {plural(uses, 'device')} until <Time at={status.expiresAt} /> from now and is not shown again.
          </p>
          {status.command !== undefined && <Command text={status.command} />}
          {typeof status.install === 'string' && (
            <>
              <p>On a device that has no agent yet, this installs it first:</p>
              <Command text={status.install} />
            </>
          )}
          {status.token !== undefined && (
            <p className="flex flex-wrap items-center gap-2 text-muted">
              Only the token: <CopyButton text={status.token} label="Copy the token" />
            </p>
          )}
          <p className="text-muted">The device is on the list seconds after its claim.</p>
        </div>
      </Dialog>
    )
  }
  return (
    <Dialog
      title="Add a device"
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button
            kind="primary"
            busy={make.isPending}
            disabledReason={denied ?? ('wrong' in parsed ? parsed.wrong : undefined)}
            onClick={() => make.mutate()}
          >
            Make a claim token
          </Button>
        </>
      }
    >
      <form
        className="grid gap-4 sm:grid-cols-2"
        onSubmit={(event) => {
          event.preventDefault()
          if (denied === undefined && 'labels' in parsed) make.mutate()
        }}
      >
        <p className="text-muted sm:col-span-2">
          A claim token lets devices join this tenant. What you choose here is given to each device that is claimed with it.
        </p>
        <Field label="Location" error={problem?.field('location')}>
          {(ids) => (
            <>
              <input {...ids} list="places" className="field" placeholder="riga-1" value={location} onChange={(e) => setLocation(e.target.value)} />
              <datalist id="places">
                {summary.data?.byLocation.map((l) => <option key={l.location} value={l.location} />)}
              </datalist>
            </>
          )}
        </Field>
        <Field label="Channel" error={problem?.field('channel')}>
          {(ids) => (
            <select {...ids} className="field" value={channel} onChange={(e) => setChannel(e.target.value)}>
              <option value="">prod, unless a rule says otherwise</option>
              {names.map((c) => (
                <option key={c}>{c}</option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Good for" error={problem?.field('lifetimeSeconds')}>
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
        <Field label="How many devices" error={problem?.field('uses')}>
          {(ids) => <input {...ids} type="number" min={1} max={100000} className="field" value={uses} onChange={(e) => setUses(e.target.valueAsNumber || 1)} />}
        </Field>
        <Field label="Labels" className="sm:col-span-2" help="key=value, separated by commas." error={'wrong' in parsed ? parsed.wrong : problem?.field('labels')}>
          {(ids) => <input {...ids} className="field font-mono" placeholder="role=kiosk, store=12" value={labels} onChange={(e) => setLabels(e.target.value)} spellCheck={false} />}
        </Field>
        <Field label="Name of the token" className="sm:col-span-2" error={problem?.field('name')}>
          {(ids) => <input {...ids} className="field" value={name} onChange={(e) => setName(e.target.value)} />}
        </Field>
        {make.isError && (
          <div className="sm:col-span-2">
            <Failure what="The token was not made" error={make.error} />
          </div>
        )}
        <button type="submit" hidden />
      </form>
    </Dialog>
  )
}
