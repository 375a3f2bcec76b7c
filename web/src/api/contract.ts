/**
 * Holds the page's types to the API's document: `schema.gen.ts` is generated from `openapi.json` (`npm run gen`), and a name, a field or a
 * type that has moved there fails `npm run check` here. Nothing of this is in the page.
 */
import type * as documents from './documents'
import type * as gateway from './gateways'
import type * as rollout from './rollout-types'
import type { components } from './schema.gen'
import type * as series from './series'
import type * as page from './types'

type Schemas = components['schemas']

/** The same fields on both sides, and whatever the page holds is what the document allows. */
type Mirrors<Page, Document> = [keyof Page] extends [keyof Document]
  ? [keyof Document] extends [keyof Page]
    ? Page extends Document
      ? true
      : { differs: { [K in keyof Page & keyof Document]: Page[K] extends Document[K] ? never : K }[keyof Page & keyof Document] }
    : { missingHere: Exclude<keyof Document, keyof Page> }
  : { notInDocument: Exclude<keyof Page, keyof Document> }

type Holds<T extends true> = T

/** The words of the document, `unknown` aside, which stands for words of newer versions. */
type Words<Page, Document> = [Exclude<Page, 'unknown'>] extends [Exclude<Document, 'unknown'>]
  ? [Exclude<Document, 'unknown'>] extends [Exclude<Page, 'unknown'>]
    ? true
    : { missingHere: Exclude<Document, Page> }
  : { notInDocument: Exclude<Page, Document> }

export type Contract = [
  Holds<Mirrors<documents.DocumentCollection, Schemas['DocumentCollection']>>,
  Holds<Words<documents.Strategy, Schemas['Strategy']>>,
  Holds<Mirrors<gateway.SyncLoss, Schemas['SyncLoss']>>,
  Holds<Mirrors<gateway.GatewayKeySpec, Schemas['GatewayKeySpec']>>,
  Holds<Mirrors<gateway.GatewayKeyStatus, Schemas['GatewayKeyStatus']>>,
  Holds<Mirrors<Omit<gateway.GatewaySync, 'report'>, Omit<Schemas['GatewaySync'], 'report'>>>,
  Holds<Mirrors<series.SeriesLine, Schemas['SeriesLine']>>,
  Holds<Mirrors<series.SeriesRange, Schemas['SeriesRange']>>,
  Holds<Mirrors<series.SeriesLatest, Schemas['SeriesLatest']>>,
  Holds<Words<series.Aggregate, Schemas['SeriesAggregate']>>,
  Holds<Words<series.SeriesGroup, Schemas['SeriesGroup']>>,
  Holds<Mirrors<page.Metadata, Schemas['Metadata']>>,
  Holds<Mirrors<page.Reason, Schemas['Reason']>>,
  Holds<Mirrors<page.FieldError, Schemas['FieldError']>>,
  Holds<Mirrors<Omit<page.Problem, 'code'>, Omit<Schemas['Problem'], 'code'>>>,
  Holds<Mirrors<page.List<unknown>['metadata'], Schemas['ListMetadata']>>,
  Holds<Mirrors<page.Generation, Schemas['Generation']>>,
  Holds<Mirrors<page.Hardware, Schemas['Hardware']>>,
  Holds<Mirrors<page.DesiredRelease, Schemas['DesiredRelease']>>,
  Holds<Mirrors<page.DeviceSpec, Required<Schemas['DeviceSpec']>>>,
  Holds<Mirrors<Omit<page.DeviceApp, 'phase' | 'isolation'>, Omit<Schemas['DeviceApp'], 'phase' | 'isolation'>>>,
  Holds<Mirrors<Required<page.Isolation>, Schemas['Isolation']>>,
  Holds<Mirrors<Omit<page.DeviceStatus, 'apps'>, Omit<Schemas['DeviceStatus'], 'apps'>>>,
  Holds<Mirrors<page.DeviceSummary, Schemas['DeviceSummary']>>,
  Holds<Mirrors<page.DeviceConnectivity, Schemas['DeviceConnectivity']>>,
  Holds<Mirrors<page.ConnectivitySpan, Schemas['ConnectivitySpan']>>,
  Holds<Words<page.Connectivity, Schemas['Connectivity']>>,
  Holds<Mirrors<page.ClaimTokenStatus, Schemas['ClaimTokenStatus']>>,
  Holds<Mirrors<Omit<page.ReleaseSpec, 'manifest'>, Omit<Schemas['ReleaseSpec'], 'manifest'>>>,
  Holds<Mirrors<Omit<rollout.RolloutStatus, 'summary' | 'waiting'>, Omit<Schemas['RolloutStatus'], 'summary' | 'waiting'>>>,
  Holds<Mirrors<Omit<page.Waiting, 'owner'>, Omit<Schemas['Waiting'], 'owner'>>>,
  Holds<Words<page.Waiting['owner'], Schemas['Owner']>>,
  Holds<Mirrors<page.LocationSummary, Schemas['LocationSummary']>>,
  Holds<Mirrors<page.Measurements, Schemas['Measurements']>>,
  Holds<Mirrors<page.FleetEvent, Schemas['Event']>>,
  Holds<Mirrors<page.FleetEvent['subject'], Schemas['Subject']>>,
  Holds<Mirrors<page.ClaimTokenSpec, Schemas['ClaimTokenSpec']>>,
  Holds<Mirrors<page.Artifact, Schemas['Artifact']>>,
  Holds<Mirrors<rollout.WaveSpec, Schemas['WaveSpec']>>,
  Holds<Mirrors<rollout.RolloutSpec, Schemas['RolloutSpec']>>,
  Holds<Mirrors<rollout.Evidence, Schemas['WaveEvidence']>>,
  Holds<Mirrors<Omit<rollout.Cause, 'owner'>, Omit<Schemas['Cause'], 'owner'>>>,
  Holds<Mirrors<page.Counts, Schemas['Counts']>>,
  Holds<Mirrors<Omit<rollout.WaveSummary, 'state'>, Omit<Schemas['WaveSummary'], 'state'>>>,
  Holds<Mirrors<page.HistoryEntry, Schemas['HistoryEntry']>>,
  Holds<Mirrors<page.KnownRelease, Schemas['KnownRelease']>>,
  Holds<Mirrors<Omit<rollout.RolloutSummary, 'phase' | 'waves' | 'pause'>, Omit<Schemas['RolloutSummary'], 'phase' | 'waves' | 'pause'>>>,
  Holds<Mirrors<Omit<page.RolloutDevice, 'bucket'>, Omit<Schemas['RolloutDevice'], 'bucket'>>>,
  Holds<Words<page.Reachability, Schemas['Reachability']>>,
  Holds<Words<page.Health, Schemas['Health']>>,
  Holds<Words<page.Conformance, Schemas['Conformance']>>,
  Holds<Words<page.Lifecycle, Schemas['Lifecycle']>>,
  Holds<Words<page.RolloutPhase, Schemas['Phase']>>,
  Holds<Words<rollout.WaveSummary['state'], Schemas['WaveState']>>,
  Holds<Words<page.Bucket, Schemas['Bucket']>>,
]
