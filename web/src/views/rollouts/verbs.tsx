/** What a person may do to a rollout. The buttons that fit now; the others in a menu, each disabled with its reason. */
import { Link } from '@tanstack/react-router'
import { useState } from 'react'

import { approvalsMissing, cannot, isFinal, type Verb } from '~/api/rollouts'
import type { Rollout, RolloutSummary } from '~/api/rollout-types'
import { useDenied } from '~/frame/me'
import { Button, buttonClass } from '~/ui/button'
import { Icon, type IconName } from '~/ui/icon'
import { Menu } from '~/ui/menu'

import { VerbDialog } from './verb-dialog'

export const VERBS: Record<Verb, { title: string; icon: IconName; danger?: boolean }> = {
  start: { title: 'Start', icon: 'play' },
  pause: { title: 'Pause', icon: 'pause' },
  resume: { title: 'Resume', icon: 'play' },
  approve: { title: 'Approve', icon: 'check' },
  reject: { title: 'Reject', icon: 'close', danger: true },
  'skip-wave': { title: 'Skip the wave', icon: 'right' },
  'retry-failed': { title: 'Retry failed', icon: 'retry' },
  abort: { title: 'Abort', icon: 'stop', danger: true },
  rollback: { title: 'Roll back', icon: 'left', danger: true },
  'release-hold': { title: 'Release the hold', icon: 'retry' },
}

/** The verbs that stand as buttons, the most likely first; the menu has the rest. */
function shownVerbs(s: RolloutSummary): Verb[] {
  if (s.phase === 'pending') return ['start', 'abort']
  if (s.phase === 'paused') return ['resume', 'rollback', 'abort']
  if (approvalsMissing(s) > 0) return ['approve', 'reject', 'pause', 'abort']
  return ['pause', 'abort']
}

const MENU: readonly Verb[] = ['retry-failed', 'skip-wave', 'rollback']

export function RolloutVerbs({ rollout, small = false }: { rollout: Rollout; small?: boolean }) {
  const [asked, setAsked] = useState<Verb | undefined>()
  const write = useDenied('rollout.write')
  const approve = useDenied('rollout.approve')
  const denied = (verb: Verb): string | undefined => (verb === 'approve' || verb === 'reject' ? approve : write)
  const s = rollout.status.summary
  const held = rollout.status.heldBack !== undefined
  const dialog = asked && <VerbDialog rollout={rollout} verb={asked} onClose={() => setAsked(undefined)} />
  if (isFinal(s.phase)) {
    const { app, channel, to } = s
    return (
      <>
        {held && (
          <Button small={small} disabledReason={write} onClick={() => setAsked('release-hold')}>
            <Icon name="retry" size={14} />
            Release the hold…
          </Button>
        )}
        <Link to="/rollouts/new" search={s.phase === 'succeeded' ? { app, channel } : { app, channel, release: to.version }} className={buttonClass('plain', small)}>
          <Icon name="plus" size={14} />
          {s.phase === 'succeeded' ? 'Next rollout…' : 'Try again…'}
        </Link>
        {dialog}
      </>
    )
  }
  const buttons = shownVerbs(s)
  const menu = MENU.filter((verb) => !buttons.includes(verb))
  return (
    <>
      {buttons.map((verb, i) => (
        <Button
          key={verb}
          small={small}
          kind={VERBS[verb].danger === true ? 'danger' : i === 0 && verb !== 'pause' ? 'primary' : 'plain'}
          disabledReason={denied(verb) ?? cannot(verb, s)}
          onClick={() => setAsked(verb)}
        >
          <Icon name={VERBS[verb].icon} size={14} />
          {VERBS[verb].title}…
        </Button>
      ))}
      {s.phase !== 'pending' && (
        <Menu
          label="More verbs"
          button={<Icon name="more" />}
          className={buttonClass('plain', small)}
          items={menu.map((verb) => ({
            label: (
              <>
                <Icon name={VERBS[verb].icon} size={14} />
                {VERBS[verb].title}…
              </>
            ),
            disabledReason: denied(verb) ?? cannot(verb, s),
            onPick: () => setAsked(verb),
          }))}
        />
      )}
      {dialog}
    </>
  )
}
