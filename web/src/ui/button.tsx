/** Buttons. A disabled one says why: it stays focusable, and its reason is its description. */
import { useId, type ButtonHTMLAttributes, type ReactNode } from 'react'

import { cx } from './cx'
import { Hint } from './hint'

type Kind = 'plain' | 'primary' | 'danger' | 'ghost'

interface Props extends Omit<ButtonHTMLAttributes<HTMLButtonElement>, 'disabled'> {
  kind?: Kind
  small?: boolean
  busy?: boolean
  /** Why it can't be pressed now; undefined: it can. */
  disabledReason?: string | undefined
  children: ReactNode
}

const KINDS: Record<Kind, string> = {
  plain: 'border-line-strong bg-surface text-ink hover:bg-hover',
  primary: 'border-accent bg-accent text-on-accent hover:brightness-110',
  danger: 'border-bad bg-surface text-bad hover:bg-bad-soft',
  ghost: 'border-transparent text-muted hover:bg-hover hover:text-ink',
}

export function buttonClass(kind: Kind = 'plain', small = false): string {
  return cx(
    'inline-flex items-center justify-center gap-1.5 whitespace-nowrap rounded border font-medium transition-colors',
    small ? 'h-6 px-2 text-sm' : 'h-8 px-3',
    KINDS[kind],
  )
}

export function Button({ kind = 'plain', small = false, busy = false, disabledReason, className, onClick, children, ...rest }: Props) {
  const id = useId()
  const off = disabledReason !== undefined || busy
  const button = (
    <button
      type="button"
      {...rest}
      aria-disabled={off || undefined}
      aria-busy={busy || undefined}
      aria-describedby={disabledReason === undefined ? rest['aria-describedby'] : id}
      onClick={(event) => {
        if (off) event.preventDefault()
        else onClick?.(event)
      }}
      className={cx(buttonClass(kind, small), off && 'cursor-not-allowed! opacity-60', className)}
    >
      {children}
    </button>
  )
  if (disabledReason === undefined) return button
  return (
    <Hint text={disabledReason} id={id}>
      {button}
    </Hint>
  )
}
