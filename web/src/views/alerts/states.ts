/** The states of messages, as the address and the API name them. */
import type { DeliveryState } from '~/api/incidents'

export const DELIVERY_STATES: readonly DeliveryState[] = ['queued', 'delivered', 'dead']
