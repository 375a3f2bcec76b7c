/** What is shown where there is nothing, and where something broke. */
import { Link, type ErrorComponentProps } from '@tanstack/react-router'

import { buttonClass } from '~/ui/button'
import { Empty, Failure, Page } from '~/ui/panel'

export function NotFound() {
  return (
    <Page title="Nothing here">
      <Empty title="This address leads nowhere">
        <p className="text-center">
          What was here may have been deleted, or belongs to another tenant. Look for it with <kbd className="kbd">Ctrl</kbd>{' '}
          <kbd className="kbd">K</kbd>, or start again.
        </p>
        <p className="text-center">
          <Link to="/" className={buttonClass('plain')}>
            Home
          </Link>
        </p>
      </Empty>
    </Page>
  )
}

export function Broken({ error, reset }: ErrorComponentProps) {
  return (
    <Page title="This view broke">
      <Failure what="The view can’t be shown" error={error} retry={reset} />
    </Page>
  )
}
