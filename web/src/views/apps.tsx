/** `/apps`: what runs where, and which release each channel has. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import { appsQuery, channelsQuery, configsQuery, pinsQuery, placementsQuery, summaryQuery } from '~/api/queries'
import type { App } from '~/api/types'
import { buttonClass } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { count, plural } from '~/ui/number'
import { Empty, Page, Section } from '~/ui/panel'
import { Resource } from '~/ui/resource'

export function Apps() {
  const apps = useQuery(appsQuery)
  return (
    <Page title="Apps" actions={<CopyButton small={false} label="Command" text="farshore get apps,placements,channels" />}>
      <Resource
        query={apps}
        what="apps"
        empty={
          <Empty title="No apps yet">
            <p>
              An app is a named thing that runs on devices. A placement says which devices run it; their channel says which release. Write
              both in a file and apply it:
            </p>
            <Command text="farshore apply -f fleet/" />
          </Empty>
        }
      >
        {(items) => (
          <div className="flex flex-col gap-3">
            {items.map((app) => (
              <AppPanel key={app.metadata.uid} app={app} />
            ))}
          </div>
        )}
      </Resource>
    </Page>
  )
}

function AppPanel({ app }: { app: App }) {
  const { name } = app.metadata
  const placements = useQuery(placementsQuery)
  const channels = useQuery(channelsQuery)
  const pins = useQuery(pinsQuery)
  const configs = useQuery(configsQuery)
  const summary = useQuery(summaryQuery({ app: name }))
  const own = placements.data?.items.filter((p) => p.spec.app === name) ?? []
  const ownPins = pins.data?.items.filter((p) => p.spec.app === name) ?? []
  const values = configs.data?.items.filter((c) => c.spec.app === name) ?? []
  const ownChannels = channels.data?.items ?? []
  return (
    <Section
      title={
        <>
          {name} {app.spec.description !== '' && <span className="font-normal text-muted">{app.spec.description}</span>}
        </>
      }
      actions={
        <>
          <Link to="/releases" search={{ app: name }} className={buttonClass('ghost', true)}>
            Releases
          </Link>
          <Link to="/devices" search={{ app: name }} className={buttonClass('ghost', true)}>
            {summary.data ? plural(summary.data.total, 'device') : 'Devices'}
          </Link>
        </>
      }
    >
      <div className="grid gap-x-8 gap-y-4 md:grid-cols-3">
        <div>
          <h3 className="mb-1 text-sm text-muted">Channels</h3>
          {ownChannels.length === 0 && <p>none</p>}
          <ul>
            {ownChannels.map((channel) => {
              const version = channel.status.releases.find((r) => r.app === name)?.version
              return (
                <li key={channel.metadata.uid} className="flex items-center justify-between gap-3 border-b border-line py-1 last:border-b-0">
                  <Link to="/devices" search={{ channel: channel.metadata.name, app: name }} className="hover:text-accent">
                    {channel.metadata.name}
                  </Link>
                  <span className="flex items-center gap-2">
                    <span className={version === undefined ? 'text-muted' : 'font-medium'}>{version ?? 'no release'}</span>
                    <Link to="/rollouts/new" search={{ app: name, channel: channel.metadata.name }} className={buttonClass('plain', true)}>
                      Change…
                    </Link>
                  </span>
                </li>
              )
            })}
          </ul>
        </div>
        <div>
          <h3 className="mb-1 text-sm text-muted">Placements</h3>
          {own.length === 0 && placements.isSuccess && <p>none: it runs nowhere</p>}
          <ul>
            {own.map((placement) => {
              const selector = placement.spec.selector ?? ''
              return (
                <li key={placement.metadata.uid} className="border-b border-line py-1 last:border-b-0">
                  {placement.metadata.name}{' '}
                  {selector === '' ? (
                    <span className="text-muted">every device</span>
                  ) : (
                    <Link to="/devices" search={{ labelSelector: selector }} className="font-mono text-sm text-muted hover:text-accent">
                      {selector}
                    </Link>
                  )}
                </li>
              )
            })}
          </ul>
        </div>
        <div>
          <h3 className="mb-1 text-sm text-muted">Pins</h3>
          {ownPins.length === 0 && <p>none</p>}
          <ul>
            {ownPins.map((pin) => (
              <li key={pin.metadata.uid} className="border-b border-line py-1 last:border-b-0">
                <Link to="/devices/$id" params={{ id: pin.spec.device }} className="hover:text-accent">
                  {pin.spec.device}
                </Link>{' '}
                keeps <span className="font-medium">{pin.spec.version}</span> <span className="text-muted">{pin.spec.reason}</span>
              </li>
            ))}
          </ul>
          {values.length > 0 && (
            <p className="mt-2 text-sm text-muted">
              {count(values.reduce((sum, c) => sum + Object.keys(c.spec.values ?? {}).length + Object.keys(c.spec.references ?? {}).length, 0))} config values in {plural(values.length, 'layer')}
            </p>
          )}
        </div>
      </div>
    </Section>
  )
}
