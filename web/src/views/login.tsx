/** `/login`: with email and password, or with a one-time link (`/login#link=…`). */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useNavigate, useSearch } from '@tanstack/react-router'
import { useEffect, useRef, useState } from 'react'

import { ApiError, chooseTenant, post } from '~/api/client'
import { keys } from '~/api/queries'
import type { Me } from '~/api/types'
import { parseNext } from '~/frame/next'
import { Wordmark } from '~/frame/rail'
import { Button } from '~/ui/button'
import { Field } from '~/ui/form'
import { Failure } from '~/ui/panel'

const MIN_PASSWORD = 12

/** The secret stands after `#`, which is never sent to a server nor written to its logs. */
function linkInAddress(): string | undefined {
  return new URLSearchParams(location.hash.slice(1)).get('link') ?? undefined
}

export function Login() {
  const { next } = parseNext(useSearch({ from: '/login' }))
  const navigate = useNavigate()
  const client = useQueryClient()
  const [link] = useState(linkInAddress)
  const [needsPassword, setNeedsPassword] = useState(false)
  const [email, setEmail] = useState('')
  const [password, setPassword] = useState('')
  const tried = useRef(false)

  useEffect(() => {
    document.title = 'Log in · Farshore'
    // The secret leaves the address bar and the history as soon as it has been read.
    if (link !== undefined) history.replaceState(history.state, '', location.pathname + location.search)
  }, [link])

  const enter = (me: Me): void => {
    chooseTenant(undefined)
    client.clear()
    client.setQueryData(keys.me, me)
    if (next === undefined) void navigate({ to: '/' })
    else void navigate({ href: next })
  }
  const login = useMutation({ mutationFn: () => post<Me>('/login', { email, password }), onSuccess: enter })
  const redeem = useMutation({
    mutationFn: (chosen: string | undefined) =>
      post<Me>('/login/link', { link, ...(chosen === undefined ? {} : { password: chosen }) }),
    onSuccess: enter,
    onError: (error) => {
      if (error instanceof ApiError && error.field('password') !== undefined) setNeedsPassword(true)
    },
  })
  useEffect(() => {
    if (link === undefined || tried.current) return
    tried.current = true
    redeem.mutate(undefined)
  }, [link, redeem])

  const action = link === undefined ? login : redeem
  const passwordError = redeem.error instanceof ApiError && needsPassword && password !== '' ? redeem.error.field('password') : undefined
  const short = password.length > 0 && password.length < MIN_PASSWORD

  return (
    <main className="flex min-h-dvh flex-col items-center px-4 pt-[14vh] pb-8">
      <div className="w-full max-w-sm">
        <div className="mb-6 text-lg">
          <Wordmark />
        </div>
        <div className="panel p-6">
          <h1 className="text-xl font-semibold tracking-tight">
            {link === undefined ? 'Log in' : needsPassword ? 'Choose a password' : redeem.isError ? 'The link did not work' : 'One moment'}
          </h1>
          {link !== undefined && !needsPassword && !redeem.isError && <p className="mt-2 text-muted">Your one-time link is being checked.</p>}
          {link !== undefined && needsPassword && (
            <p className="mt-2 text-muted">The link is good. Choose the password with which you log in from now on.</p>
          )}
          {action.isError && !(needsPassword && password === '') && passwordError === undefined && (
            <div className="mt-4">
              <Failure what={link === undefined ? 'Not logged in' : 'Not redeemed'} error={action.error} />
            </div>
          )}
          {link !== undefined && redeem.isError && !needsPassword && (
            <p className="mt-3 text-muted">
              Links work once and for a short time. Ask a tenant admin for a new one, or{' '}
              <a href="/login" className="link">
                log in with your password
              </a>
              .
            </p>
          )}
          {(link === undefined || needsPassword) && (
            <form
              className="mt-5 flex flex-col gap-4"
              onSubmit={(event) => {
                event.preventDefault()
                if (link === undefined) login.mutate()
                else if (!short) redeem.mutate(password)
              }}
            >
              {link === undefined && (
                <Field label="Email">
                  {(ids) => (
                    // oxlint-disable-next-line jsx-a11y/no-autofocus -- the page is for nothing else
                    <input {...ids} autoFocus type="email" autoComplete="username" required className="field" value={email} onChange={(e) => setEmail(e.target.value)} />
                  )}
                </Field>
              )}
              <Field
                label="Password"
                error={passwordError}
                help={link === undefined ? undefined : `At least ${MIN_PASSWORD} characters.`}
              >
                {(ids) => (
                  <input
                    {...ids}
                    // oxlint-disable-next-line jsx-a11y/no-autofocus -- the form has this one field
                    autoFocus={link !== undefined}
                    type="password"
                    autoComplete={link === undefined ? 'current-password' : 'new-password'}
                    required
                    minLength={link === undefined ? undefined : MIN_PASSWORD}
                    className="field"
                    value={password}
                    onChange={(e) => setPassword(e.target.value)}
                  />
                )}
              </Field>
              <Button type="submit" kind="primary" busy={action.isPending}>
                {action.isPending ? 'One moment…' : link === undefined ? 'Log in' : 'Set password and log in'}
              </Button>
            </form>
          )}
        </div>
      </div>
    </main>
  )
}
