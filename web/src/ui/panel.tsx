/** The head of a page, sections of it, and the four ways a part of it can be without content. */
import { useEffect, useRef, type ReactNode } from 'react'

import { ApiError } from '~/api/client'

import { Button } from './button'
import { cx } from './cx'
import { Icon } from './icon'

interface PageProps {
  title: string
  /** Stands before the heading: where one came from. */
  above?: ReactNode
  /** Stands beside the heading. */
  beside?: ReactNode
  actions?: ReactNode
  children: ReactNode
  /** Fill the height and scroll inside. */
  fill?: boolean
}

export function Page({ title, above, beside, actions, children, fill = false }: PageProps) {
  const heading = useRef<HTMLHeadingElement>(null)
  useEffect(() => {
    document.title = `${title} · Farshore`
  }, [title])
  return (
    <div className={cx('mx-auto flex w-full max-w-[1720px] flex-col gap-4 px-4 py-4 sm:px-6', fill && 'h-full min-h-0')}>
      <header className="flex flex-wrap items-center gap-x-4 gap-y-2">
        <div className="min-w-0 flex-[1_1_12rem]">
          {above}
          <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
            <h1 ref={heading} tabIndex={-1} className="min-w-0 text-xl font-semibold tracking-tight [overflow-wrap:anywhere]">
              {title}
            </h1>
            {beside}
          </div>
        </div>
        {actions !== undefined && <div className="flex flex-wrap items-center gap-2">{actions}</div>}
      </header>
      {children}
    </div>
  )
}

interface SectionProps {
  title: ReactNode
  actions?: ReactNode
  children: ReactNode
  className?: string
  /** Content goes to the panel's edges. */
  flush?: boolean
}

export function Section({ title, actions, children, className, flush = false }: SectionProps) {
  return (
    <section className={cx('panel min-w-0', className)}>
      <header className="flex min-h-10 flex-wrap items-center justify-between gap-x-4 gap-y-1 border-b border-line px-4 py-1">
        <h2 className="font-semibold">{title}</h2>
        {actions !== undefined && <div className="flex flex-wrap items-center gap-1">{actions}</div>}
      </header>
      <div className={flush ? undefined : 'p-4'}>{children}</div>
    </section>
  )
}

/** Grey bars in the place of lines that are still on their way. */
export function Loading({ lines = 4, what }: { lines?: number; what: string }) {
  return (
    <div aria-busy="true" className="flex flex-col gap-3 py-1">
      <span className="sr-only">Loading {what}</span>
      {Array.from({ length: lines }, (_, i) => (
        <span key={i} className="skeleton" style={{ width: `${[72, 48, 60, 36, 54][i % 5] ?? 50}%` }} />
      ))}
    </div>
  )
}

/** What this is for, and the command that makes the first one. */
export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="mx-auto flex w-full max-w-2xl flex-col gap-3 px-4 py-8 text-center">
      <p className="text-lg font-semibold">{title}</p>
      <div className="flex flex-col gap-3 text-left text-muted">{children}</div>
    </div>
  )
}

/** What failed, why, and how to try again. */
export function Failure({ error, retry, what }: { error: unknown; retry?: () => void; what: string }) {
  const problem = error instanceof ApiError ? error.problem : undefined
  return (
    <div role="alert" className="flex flex-wrap items-start gap-3 rounded border border-bad bg-bad-soft px-4 py-3">
      <div className="min-w-0 flex-1">
        <p className="font-semibold text-bad">
          {what}
          {problem && problem.status !== 401 ? `: ${problem.title}` : ''}
        </p>
        <p className="[overflow-wrap:anywhere]">
          {problem?.detail ?? (error instanceof Error ? error.message : 'Something went wrong.')}
        </p>
        {problem?.errors?.map((e) => (
          <p key={e.field}>
            <code className="font-mono text-sm">{e.field}</code> {e.message}
          </p>
        ))}
        {problem?.requestId !== undefined && problem.status >= 500 && (
          <p className="text-sm text-muted">Request {problem.requestId}; the server’s log has the cause under it.</p>
        )}
      </div>
      {retry && (
        <Button small onClick={retry}>
          <Icon name="retry" size={14} />
          Try again
        </Button>
      )}
    </div>
  )
}

/** Above content that is older than it should be. */
export function StaleNote({ error, since }: { error: unknown; since: ReactNode }) {
  return (
    <p role="status" className="rounded border border-warn bg-warn-soft px-3 py-1.5 text-sm">
      <strong className="text-warn">Old data.</strong> Shown as it was {since}.{' '}
      {error instanceof ApiError ? error.problem.detail : ''}
    </p>
  )
}
