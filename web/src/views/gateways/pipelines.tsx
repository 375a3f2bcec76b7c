/** Configs that hold pipelines of gateways: look at, set, remove. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, keyring } from '~/api/client'
import type { GatewaySync } from '~/api/gateways'
import { removePipelines, setPipelines, type Scope } from '~/api/pipelines'
import { configsQuery, keys } from '~/api/queries'
import type { Config } from '~/api/types'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { Icon } from '~/ui/icon'
import { plural } from '~/ui/number'
import { Empty, Failure } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table } from '~/ui/table'
import { Time } from '~/ui/time'

const START = `pipelines:
  - name: cold-room
    from:
      measurements: ["temp-*"]
    steps:
      - filter: value > -60 && value < 100
      - rule:
          name: too-warm
          raise: value > 8
          clear: value < 6
          for: 30s
          message: "{measurement} is at {value} °C"
`

export function GatewayPipelines({ gateways }: { gateways: readonly GatewaySync[] }) {
  const configs = useQuery({ ...configsQuery, select: (all) => ({ ...all, items: all.items.filter((c) => c.spec.gateway?.pipelines !== undefined) }) })
  const denied = useDenied('fleet.write')
  const [writing, setWriting] = useState<{ config?: Config } | undefined>()
  const [removing, setRemoving] = useState<Config | undefined>()
  return (
    <section className="flex min-w-0 flex-col gap-2">
      <header className="flex flex-wrap items-center justify-between gap-x-4 gap-y-1">
        <h2 className="font-semibold">Pipelines</h2>
        <div className="flex flex-wrap items-center gap-1">
          <CopyButton label="Command" text="farshore pipeline set pipelines.yaml --name cold-rooms -l room=cold" />
          <Button small disabledReason={denied} onClick={() => setWriting({})}>
            <Icon name="plus" size={14} />
            New pipelines…
          </Button>
        </div>
      </header>
      <Resource
        query={configs}
        what="pipelines"
        empty={
          <Empty title="No pipelines are set">
            <p>A pipeline filters, gathers and judges readings on the device, and acts there with no network. The nearest layer counts: all gateways, those with labels, one.</p>
            <Command text="farshore-agent pipeline check pipelines.yaml" />
          </Empty>
        }
      >
        {(items) => (
          <Table
            label="Pipelines"
            items={items}
            id={(c) => c.metadata.uid}
            columns={[
              { title: 'Config', cell: (c) => <span className="font-medium">{c.metadata.name}</span> },
              { title: 'For', cell: (c) => target(c.spec) },
              { title: 'Runs on', cell: (c) => plural(gateways.filter((g) => g.report.processing?.source === 'control-plane' && g.report.processing.config === c.metadata.name).length, 'gateway') },
              { title: 'Version', wide: true, right: true, cell: (c) => c.metadata.resourceVersion },
              { title: 'Made', wide: true, right: true, cell: (c) => <Time at={c.metadata.createdAt} className="text-muted" /> },
              {
                title: 'Actions',
                plain: true,
                right: true,
                cell: (c) => (
                  <span className="flex flex-wrap justify-end gap-1">
                    <Button small aria-label={`Change ${c.metadata.name}…`} disabledReason={denied} onClick={() => setWriting({ config: c })}>
                      Change…
                    </Button>
                    <Button small kind="danger" aria-label={`Remove the pipelines of ${c.metadata.name}…`} disabledReason={denied} onClick={() => setRemoving(c)}>
                      Remove…
                    </Button>
                  </span>
                ),
              },
            ]}
          />
        )}
      </Resource>
      {writing && <Write before={writing.config} onClose={() => setWriting(undefined)} />}
      {removing && <Remove config={removing} onClose={() => setRemoving(undefined)} />}
    </section>
  )
}

const target = ({ device, selector }: Scope): string => (device !== undefined ? `the gateway on ${device}` : selector ? `gateways with ${selector}` : 'all gateways')

type Whose = 'all' | 'selector' | 'device'

function Write({ before, onClose }: { before: Config | undefined; onClose: () => void }) {
  const client = useQueryClient()
  const [name, setName] = useState(before?.metadata.name ?? '')
  const [whose, setWhose] = useState<Whose>(before?.spec.device !== undefined ? 'device' : before?.spec.selector ? 'selector' : 'all')
  const [selector, setSelector] = useState(before?.spec.selector ?? '')
  const [device, setDevice] = useState(before?.spec.device ?? '')
  const [text, setText] = useState(before?.spec.gateway?.pipelines ?? START)
  const [keyFor] = useState(keyring)
  const scope: Scope = whose === 'device' ? { device } : whose === 'selector' ? { selector } : {}
  const save = useMutation({
    mutationFn: () => setPipelines(name, scope, text, before, keyFor({ name, scope, text })),
    onSuccess: () => {
      announce('Pipelines set')
      void client.invalidateQueries({ queryKey: keys.configs })
      void client.invalidateQueries({ queryKey: keys.pipelines })
      onClose()
    },
  })
  const problem = save.error instanceof ApiError ? save.error : undefined
  const missing =
    name === '' ? 'Give it a name first.' : whose === 'device' && device === '' ? 'Say which device.' : whose === 'selector' && selector.trim() === '' ? 'Say which labels.' : undefined
  return (
    <Dialog
      wide
      title={before ? `Pipelines of ${before.metadata.name}` : 'New pipelines'}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" busy={save.isPending} disabledReason={missing} onClick={() => save.mutate()}>
            Set
          </Button>
        </>
      }
    >
      <form
        className="grid gap-4 sm:grid-cols-2"
        onSubmit={(event) => {
          event.preventDefault()
          if (missing === undefined) save.mutate()
        }}
      >
        <Field label="Name" error={problem?.field('metadata.name')}>
          {(ids) => <input {...ids} className="field" placeholder="cold-rooms" disabled={before !== undefined} value={name} onChange={(e) => setName(e.target.value.trim())} />}
        </Field>
        <Field label="For">
          {(ids) => (
            <select {...ids} className="field" value={whose} onChange={(e) => setWhose(e.target.value as Whose)}>
              <option value="all">All gateways</option>
              <option value="selector">Gateways with labels</option>
              <option value="device">One gateway</option>
            </select>
          )}
        </Field>
        {whose === 'selector' && (
          <Field label="Labels" error={problem?.field('spec.selector')} className="sm:col-span-2">
            {(ids) => <input {...ids} className="field font-mono" placeholder="room=cold" spellCheck={false} value={selector} onChange={(e) => setSelector(e.target.value)} />}
          </Field>
        )}
        {whose === 'device' && (
          <Field label="Device" error={problem?.field('spec.device')} className="sm:col-span-2">
            {(ids) => <input {...ids} className="field" placeholder="hall-gateway" value={device} onChange={(e) => setDevice(e.target.value.trim())} />}
          </Field>
        )}
        <Field
          label="Pipelines"
          help="YAML. Checked before it is stored, and once more on the device; what runs goes on until then."
          error={problem?.field('spec.gateway.pipelines') ?? problem?.field('spec.gateway')}
          className="sm:col-span-2"
        >
          {(ids) => <textarea {...ids} className="field h-80 font-mono text-sm" spellCheck={false} value={text} onChange={(e) => setText(e.target.value)} />}
        </Field>
        {save.isError && (
          <div className="sm:col-span-2">
            <Failure what="The pipelines were not set" error={save.error} />
          </div>
        )}
      </form>
    </Dialog>
  )
}

function Remove({ config, onClose }: { config: Config; onClose: () => void }) {
  const client = useQueryClient()
  const run = useMutation({
    mutationFn: () => removePipelines(config),
    onSuccess: () => {
      announce('Pipelines removed')
      void client.invalidateQueries({ queryKey: keys.configs })
      void client.invalidateQueries({ queryKey: keys.pipelines })
      onClose()
    },
  })
  return (
    <Dialog
      title={`Remove the pipelines of ${config.metadata.name}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="danger" busy={run.isPending} onClick={() => run.mutate()}>
            Remove them
          </Button>
        </>
      }
    >
      <p>They are for {target(config.spec)}. A gateway goes on by those of the next layer, or by its own file. Where it has none, it processes nothing, and what its windows hold is forgotten.</p>
      {run.isError && (
        <div className="mt-3">
          <Failure what="That did not work" error={run.error} />
        </div>
      )}
    </Dialog>
  )
}
