/** A button that has a gateway send what waits, and what came of it. */
import { useMutation, useQuery } from '@tanstack/react-query'
import { useState } from 'react'

import { get, keyring, post, seg } from '~/api/client'
import type { Operation } from '~/api/operations'
import { useDenied } from '~/frame/me'
import { Button } from '~/ui/button'

const OPEN = ['queued', 'delivered', 'running']

export function SyncNow({ device }: { device: string }) {
  const denied = useDenied('device.operate')
  const [keyFor] = useState(keyring)
  const [asked, setAsked] = useState(0)
  const ask = useMutation({
    mutationFn: () => post<Operation>(`/devices/${seg(device)}:force-sync`, {}, keyFor([device, asked])),
    onSuccess: () => setAsked(asked + 1),
  })
  const uid = ask.data?.metadata.uid
  const operation = useQuery({
    queryKey: ['force-sync', uid],
    queryFn: ({ signal }) => get<Operation>(`/operations/${seg(uid ?? '')}`, {}, signal),
    enabled: uid !== undefined,
    refetchInterval: (query) => (query.state.data === undefined || OPEN.includes(query.state.data.status.state) ? 2_000 : false),
  })
  const { state, message } = (operation.data ?? ask.data)?.status ?? {}
  const open = state !== undefined && OPEN.includes(state)
  return (
    <span className="flex flex-col items-end gap-0.5">
      <Button small busy={ask.isPending} disabledReason={denied ?? (open ? 'It was asked for.' : undefined)} aria-label={`Have ${device} sync now`} onClick={() => ask.mutate()}>
        Sync now
      </Button>
      <span role="status" className="max-w-52 text-right text-sm text-muted [overflow-wrap:anywhere]">
        {ask.isError ? ask.error.message : state === 'queued' ? 'waits for its next exchange' : open ? 'sends' : state === undefined ? '' : message || state}
      </span>
    </span>
  )
}
