/** `/tokens`: claim tokens: make, look at, revoke. */
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'

import { seg } from '~/api/client'
import { claimTokensQuery, keys } from '~/api/queries'
import type { ClaimToken } from '~/api/types'
import { useDenied } from '~/frame/me'
import { Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { Icon } from '~/ui/icon'
import { LabelList } from '~/ui/label'
import { Mark } from '~/ui/mark'
import { count, plural } from '~/ui/number'
import { Empty, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Revoke } from '~/ui/revoke'
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
      {revoking && (
        <Revoke
          name={revoking.metadata.name}
          noun="token"
          done="Claim token revoked"
          path={`/claim-tokens/${seg(revoking.metadata.uid)}`}
          queryKey={keys.claimTokens}
          onClose={() => setRevoking(undefined)}
        >
          No more devices can be claimed with it; {plural(Math.max(0, (revoking.spec.uses ?? 1) - revoking.status.used), 'use')} would have been left. The{' '}
          {plural(revoking.status.used, 'device')} claimed with it stay as they are.
        </Revoke>
      )}
    </Page>
  )
}
