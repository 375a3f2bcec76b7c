/** `/tokens`: claim tokens: make, look at, revoke. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { del, seg } from '~/api/client'
import { claimTokensQuery, keys } from '~/api/queries'
import type { ClaimToken } from '~/api/types'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Icon } from '~/ui/icon'
import { LabelList } from '~/ui/label'
import { Mark } from '~/ui/mark'
import { count, plural } from '~/ui/number'
import { Empty, Failure, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import type { Look } from '~/ui/state'
import { Table } from '~/ui/table'
import { Time, useNow } from '~/ui/time'

import { AddDevice } from './home/add-device'

const LOOKS: Record<string, Look> = {
  usable: { shape: 'full', tone: 'ok', means: 'Devices can be claimed with it.' },
  'used up': { shape: 'ring', tone: 'quiet', means: 'As many devices were claimed with it as it allows.' },
  expired: { shape: 'ring', tone: 'quiet', means: 'Its time is over.' },
  revoked: { shape: 'cross', tone: 'quiet', means: 'A person has revoked it.' },
}

function wordOf(token: ClaimToken, now: number): keyof typeof LOOKS {
  if (token.status.revoked) return 'revoked'
  if (token.status.expiresAt <= now) return 'expired'
  return token.status.used >= (token.spec.uses ?? 1) ? 'used up' : 'usable'
}

export function Tokens() {
  const tokens = useQuery(claimTokensQuery)
  const denied = useDenied('claim.write')
  const now = useNow()
  const [adding, setAdding] = useState(false)
  const [revoking, setRevoking] = useState<ClaimToken | undefined>()
  return (
    <Page
      title="Claim tokens"
      actions={
        <>
          <CopyButton small={false} label="Command" text="farshore get claim-tokens" />
          <Button kind="primary" disabledReason={denied} onClick={() => setAdding(true)}>
            <Icon name="plus" size={14} />
            New claim token
          </Button>
        </>
      }
    >
      <Resource
        query={tokens}
        what="claim tokens"
        empty={
          <Empty title="No claim tokens">
            <p>A claim token lets devices join this tenant, for a while and so many times. The token itself is shown once, when it is made.</p>
            <Command text="farshore token create --channel prod --location store-1 --uses 10" />
          </Empty>
        }
      >
        {(items) => (
          <Table
            label="Claim tokens"
            items={items}
            id={(t) => t.metadata.uid}
            columns={[
              { title: 'Name', cell: (t) => <span className="font-medium">{t.metadata.name}</span> },
              {
                title: 'State',
                cell: (t) => {
                  const word = wordOf(t, now)
                  const look = LOOKS[word]
                  return look && <Mark word={String(word)} look={look} />
                },
              },
              { title: 'Used', cell: (t) => `${count(t.status.used)} of ${count(t.spec.uses ?? 1)}` },
              { title: 'Expires', cell: (t) => <Time at={t.status.expiresAt} /> },
              {
                title: 'Gives',
                wide: true,
                cell: (t) => (
                  <span className="flex flex-wrap items-center gap-2">
                    {[t.spec.channel, t.spec.location].filter(Boolean).join(', ')}
                    {Object.keys(t.spec.labels ?? {}).length > 0 && <LabelList labels={t.spec.labels} />}
                  </span>
                ),
              },
              {
                title: 'Actions',
                plain: true,
                right: true,
                cell: (t) => (
                  <Button
                    small
                    kind="danger"
                    disabledReason={denied ?? (t.status.revoked ? 'It is revoked already.' : undefined)}
                    onClick={() => setRevoking(t)}
                  >
                    Revoke…
                  </Button>
                ),
              },
            ]}
          />
        )}
      </Resource>
      {adding && <AddDevice onClose={() => setAdding(false)} />}
      {revoking && <Revoke token={revoking} onClose={() => setRevoking(undefined)} />}
    </Page>
  )
}

function Revoke({ token, onClose }: { token: ClaimToken; onClose: () => void }) {
  const client = useQueryClient()
  const run = useMutation({
    mutationFn: () => del(`/claim-tokens/${seg(token.metadata.uid)}`),
    onSuccess: () => {
      announce('Claim token revoked')
      void client.invalidateQueries({ queryKey: keys.claimTokens })
      onClose()
    },
  })
  const left = Math.max(0, (token.spec.uses ?? 1) - token.status.used)
  return (
    <Dialog
      title={`Revoke ${token.metadata.name}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="danger" busy={run.isPending} onClick={() => run.mutate()}>
            Revoke the token
          </Button>
        </>
      }
    >
      <p>
        No more devices can be claimed with it; {plural(left, 'use')} would have been left. The {plural(token.status.used, 'device')} claimed
        with it stay as they are.
      </p>
      {run.isError && (
        <div className="mt-3">
          <Failure what="That did not work" error={run.error} />
        </div>
      )}
    </Dialog>
  )
}
