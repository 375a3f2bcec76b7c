/** `/releases`: signed versions of apps, with the artifacts of each. */
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate, useSearch } from '@tanstack/react-router'

import { appsQuery, artifactsQuery, channelsQuery, releasesQuery } from '~/api/queries'
import type { Release } from '~/api/types'
import { buttonClass } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { cx } from '~/ui/cx'
import { Icon } from '~/ui/icon'
import { Glyph } from '~/ui/mark'
import { bytes, shortDigest } from '~/ui/number'
import { Empty, Failure, Loading, Page, Section } from '~/ui/panel'
import { duration, Time } from '~/ui/time'
import { toYaml } from '~/ui/yaml'

export function Releases() {
  const { app } = useSearch({ from: '/shell/releases' })
  const navigate = useNavigate({ from: '/releases' })
  const releases = useQuery(releasesQuery)
  const apps = useQuery(appsQuery)
  const all = releases.data?.items ?? []
  const shown = all
    .filter((r) => app === undefined || r.spec.manifest.app === app)
    .toSorted((a, b) => b.metadata.createdAt - a.metadata.createdAt)
  return (
    <Page title="Releases" actions={<CopyButton small={false} label="Command" text="farshore get releases" />}>
      {(apps.data?.items.length ?? 0) > 1 && (
        <div className="flex flex-wrap gap-1" role="group" aria-label="App">
          {[undefined, ...(apps.data?.items.map((a) => a.metadata.name) ?? [])].map((name) => (
            <button
              key={name ?? ''}
              type="button"
              aria-pressed={app === name}
              onClick={() => void navigate({ search: name === undefined ? {} : { app: name }, replace: true })}
              className={cx('h-7 rounded border px-2.5', app === name ? 'border-accent bg-accent-soft' : 'border-transparent text-muted hover:bg-hover')}
            >
              {name ?? 'All apps'}
            </button>
          ))}
        </div>
      )}
      {releases.isError && all.length === 0 ? (
        <Failure what="The releases can’t be listed" error={releases.error} retry={() => void releases.refetch()} />
      ) : releases.isPending ? (
        <div className="panel p-4">
          <Loading what="releases" lines={6} />
        </div>
      ) : shown.length === 0 ? (
        <div className="panel">
          <Empty title={app === undefined ? 'No releases yet' : `No releases of ${app} yet`}>
            <p>
              A release is one version of an app: a manifest, signed with a key that need not be on the server, and an artifact for each
              platform. Sign it where the key is, then push both:
            </p>
            <Command text="farshore release sign release.yaml --key release.key --artifact linux/aarch64=edge-web.tar.gz" />
            <Command text="farshore release push out/" />
          </Empty>
        </div>
      ) : (
        <>
          <div className="flex flex-col gap-3">
            {shown.map((release) => (
              <ReleasePanel key={release.metadata.uid} release={release} />
            ))}
          </div>
          <Section title="Add a release">
            <div className="flex flex-col gap-2">
              <p className="text-muted">Sign where the key is, then push the manifest, its signature and its artifacts.</p>
              <Command text="farshore release sign release.yaml --key release.key --artifact linux/aarch64=edge-web.tar.gz" />
              <Command text="farshore release push out/" />
            </div>
          </Section>
        </>
      )}
    </Page>
  )
}

function ReleasePanel({ release }: { release: Release }) {
  const { manifest, manifestDigest, keyName, signedBy } = release.spec
  const channels = useQuery(channelsQuery)
  const artifacts = useQuery(artifactsQuery)
  const current = channels.data?.items.filter((c) => c.status.releases.some((r) => r.release === release.metadata.uid)) ?? []
  const checks = manifest.health ?? []
  return (
    <section className="panel min-w-0" aria-label={`${manifest.app} ${manifest.version}`}>
      <header className="flex flex-wrap items-center gap-x-4 gap-y-1 border-b border-line px-4 py-2">
        <h2 className="text-lg font-semibold">
          <span className="font-normal text-muted">{manifest.app}</span> {manifest.version}
        </h2>
        <span className="flex items-center gap-1.5" title={signedBy}>
          <Glyph shape="check" tone="ok" />
          signed with {keyName} <span className="font-mono text-xs text-muted">{shortDigest(signedBy)}</span>
        </span>
        {current.length > 0 && (
          <span className="text-muted">
            current in <span className="text-ink">{current.map((c) => c.metadata.name).join(', ')}</span>
          </span>
        )}
        <Time at={release.metadata.createdAt} className="text-muted" />
        <span className="flex-1" />
        <CopyButton label="YAML" text={() => toYaml(release)} />
        <Link
          to="/rollouts/new"
          search={{ app: manifest.app, release: manifest.version }}
          className={buttonClass('plain', true)}
        >
          <Icon name="rollout" size={14} />
          Roll out…
        </Link>
      </header>
      <div className="grid gap-x-8 gap-y-3 px-4 py-3 lg:grid-cols-[3fr_2fr]">
        <div className="min-w-0 overflow-x-auto">
          <table className="w-full">
            <thead>
              <tr className="text-left text-sm text-muted">
                <th className="pr-4 pb-1 font-normal">Platform</th>
                <th className="pr-4 pb-1 font-normal">Artifact</th>
                <th className="pb-1 text-right font-normal">Size</th>
              </tr>
            </thead>
            <tbody>
              {manifest.platforms.map((p) => {
                const known = artifacts.data?.items.find((a) => a.digest === p.artifact.digest)
                return (
                  <tr key={`${p.os}${p.arch}${p.variant ?? ''}`}>
                    <td className="pr-4 whitespace-nowrap">
                      {p.os}/{p.arch}
                      {p.variant ? `/${p.variant}` : ''}
                    </td>
                    <td className="pr-4">
                      <span className="font-mono text-sm" title={p.artifact.digest}>
                        {known?.name || shortDigest(p.artifact.digest)}
                      </span>{' '}
                      {artifacts.isSuccess && !known && <span className="text-warn">not uploaded</span>}
                    </td>
                    <td className="text-right whitespace-nowrap">{bytes(p.artifact.size)}</td>
                  </tr>
                )
              })}
            </tbody>
          </table>
        </div>
        <dl className="grid grid-cols-[auto_1fr] content-start gap-x-4 gap-y-0.5">
          <dt className="text-muted">runs</dt>
          <dd className="font-mono text-sm [overflow-wrap:anywhere]">{manifest.run.command.join(' ')}</dd>
          <dt className="text-muted">checks</dt>
          <dd>
            {checks.length === 0
              ? 'none'
              : checks
                  .map((c) => `${c.name} (${c.probe.type}${c.probe.type === 'http' ? ` ${c.probe.path}` : ''})`)
                  .join(', ')}
            , soaks {duration((manifest.soakSeconds ?? 10) * 1000)}
          </dd>
          {manifest.floor !== undefined && (
            <>
              <dt className="text-muted">floor</dt>
              <dd>devices that had it never go below {manifest.floor}</dd>
            </>
          )}
          <dt className="text-muted">manifest</dt>
          <dd className="truncate font-mono text-sm" title={manifestDigest}>
            {shortDigest(manifestDigest)}
          </dd>
        </dl>
      </div>
    </section>
  )
}
