{{- define "paceline.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What a selector may name: it never changes for an object that exists. */}}
{{- define "paceline.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "paceline.labels" -}}
{{ include "paceline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods. Not the chart's version, so that a new chart alone restarts nothing. */}}
{{- define "paceline.podLabels" -}}
{{ include "paceline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object: (dict "root" $ "name" NAME ["component" C] ["annotations" MAP] ["labels" MAP]) */}}
{{- define "paceline.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "paceline.labels" .root | nindent 2 }}
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "paceline.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{/* Image of a model's workers: (dict "root" $ "m" MODEL). What the model does not say is the chart's. */}}
{{- define "paceline.workerImage" -}}
{{- $repository := .m.image.repository | default .root.Values.image.repository -}}
{{- if .m.image.digest -}}
{{- printf "%s@%s" $repository .m.image.digest -}}
{{- else if .m.image.tag -}}
{{- printf "%s:%s" $repository .m.image.tag -}}
{{- else if .m.image.repository -}}
{{- printf "%s:%s" $repository (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- else -}}
{{- include "paceline.image" .root -}}
{{- end -}}
{{- end -}}

{{- define "paceline.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "paceline.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The routers': their own where they ask the Kubernetes API. */}}
{{- define "paceline.routerServiceAccount" -}}
{{- if and .Values.serviceAccount.create (eq .Values.discovery.mode "kubernetes") -}}
{{- printf "%s-router" (include "paceline.serviceAccount" .) -}}
{{- else -}}
{{- include "paceline.serviceAccount" . -}}
{{- end -}}
{{- end -}}

{{- define "paceline.authSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-api-keys" (include "paceline.fullname" .)) -}}
{{- end -}}

{{- define "paceline.adminSecret" -}}
{{- .Values.admin.existingSecret | default (printf "%s-admin-keys" (include "paceline.fullname" .)) -}}
{{- end -}}

{{- define "paceline.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "paceline.fullname" .)) -}}
{{- end -}}

{{- define "paceline.planeSecret" -}}
{{- .Values.workerPlane.tls.existingSecret | default (printf "%s-worker-tls" (include "paceline.fullname" .)) -}}
{{- end -}}

{{- define "paceline.tokenSecret" -}}
{{- .Values.workerPlane.token.existingSecret | default (printf "%s-worker-token" (include "paceline.fullname" .)) -}}
{{- end -}}

{{/* The name that workers have in DNS, and in their certificates. */}}
{{- define "paceline.workersName" -}}
{{ include "paceline.fullname" . }}-workers.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* A secret that stays what it is over upgrades:
     (dict "root" $ "name" NAME "key" KEY "value" VALUE) */}}
{{- define "paceline.keptSecret" -}}
{{- $old := lookup "v1" "Secret" .root.Release.Namespace .name -}}
apiVersion: v1
kind: Secret
metadata:
  {{- include "paceline.metadata" (dict "root" .root "name" .name "annotations" (dict "helm.sh/resource-policy" "keep")) | nindent 2 }}
type: Opaque
data:
  {{- if and $old (hasKey ($old.data | default dict) .key) }}
  {{ .key }}: {{ index $old.data .key }}
  {{- else }}
  {{ .key }}: {{ .value | b64enc }}
  {{- end }}
{{- end -}}

{{/* A certificate for `names`, from cert-manager or made here and kept:
     (dict "root" $ "name" NAME "names" LIST "issuerRef" MAP) */}}
{{- define "paceline.certificate" -}}
{{- if .issuerRef -}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  {{- include "paceline.metadata" (dict "root" .root "name" .name) | nindent 2 }}
spec:
  secretName: {{ .name }}
  dnsNames:
    {{- toYaml .names | nindent 4 }}
  usages: [digital signature, key encipherment, server auth, client auth]
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  issuerRef:
    {{- toYaml .issuerRef | nindent 4 }}
{{- else -}}
{{- $old := lookup "v1" "Secret" .root.Release.Namespace .name -}}
apiVersion: v1
kind: Secret
metadata:
  {{- include "paceline.metadata" (dict "root" .root "name" .name "annotations" (dict "helm.sh/resource-policy" "keep")) | nindent 2 }}
type: kubernetes.io/tls
data:
  {{- if and $old (hasKey ($old.data | default dict) "ca.crt") }}
  tls.crt: {{ index $old.data "tls.crt" }}
  tls.key: {{ index $old.data "tls.key" }}
  ca.crt: {{ index $old.data "ca.crt" }}
  {{- else }}
  {{- $authority := genCA .name 3650 }}
  {{- $made := genSignedCert (first .names) nil .names 3650 $authority }}
  tls.crt: {{ $made.Cert | b64enc }}
  tls.key: {{ $made.Key | b64enc }}
  ca.crt: {{ $authority.Cert | b64enc }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The files that the worker plane needs in a pod, as arguments, mounts and volumes. */}}
{{- define "paceline.planeArgs" -}}
{{- if .Values.workerPlane.tls.enabled }}
- --worker-tls-cert-file=/etc/paceline/worker-tls/tls.crt
- --worker-tls-key-file=/etc/paceline/worker-tls/tls.key
- --worker-tls-ca-file=/etc/paceline/worker-tls/ca.crt
{{- end }}
{{- if .Values.workerPlane.token.enabled }}
- --worker-token-file=/etc/paceline/worker-token/token
{{- end }}
{{- end -}}

{{- define "paceline.planeMounts" -}}
{{- if .Values.workerPlane.tls.enabled }}
- {name: worker-tls, mountPath: /etc/paceline/worker-tls, readOnly: true}
{{- end }}
{{- if .Values.workerPlane.token.enabled }}
- {name: worker-token, mountPath: /etc/paceline/worker-token, readOnly: true}
{{- end }}
{{- end -}}

{{- define "paceline.planeVolumes" -}}
{{- if .Values.workerPlane.tls.enabled }}
- name: worker-tls
  secret: {secretName: {{ include "paceline.planeSecret" . }}, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}, {key: ca.crt, path: ca.crt}], defaultMode: 0440}
{{- end }}
{{- if .Values.workerPlane.token.enabled }}
- name: worker-token
  secret: {secretName: {{ include "paceline.tokenSecret" . }}, items: [{key: token, path: token}], defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* A secret of keys that stays what it is over upgrades: (dict "root" $ "name" NAME) */}}
{{- define "paceline.keySecret" -}}
{{- include "paceline.keptSecret" (dict "root" .root "name" .name "key" "keys" "value" (printf "default:%s\n" (randAlphaNum 40))) -}}
{{- end -}}

{{/* The pod fields that all pods have in common. */}}
{{- define "paceline.pod" -}}
serviceAccountName: {{ include "paceline.serviceAccount" . }}
automountServiceAccountToken: false
{{ include "paceline.podRest" . }}
{{- end -}}

{{- define "paceline.podRest" -}}
# A Service named "paceline" would set PACELINE_PORT, which is an option's variable.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with .Values.security }}
  {{- if not (kindIs "invalid" .runAsUser) }}
  runAsUser: {{ .runAsUser | int64 }}
  {{- end }}
  {{- if not (kindIs "invalid" .runAsGroup) }}
  runAsGroup: {{ .runAsGroup | int64 }}
  {{- end }}
  {{- if not (kindIs "invalid" .fsGroup) }}
  fsGroup: {{ .fsGroup | int64 }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "paceline.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Where a pod may run: (dict "values" V "selector" LABELS) */}}
{{- define "paceline.scheduling" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else if .selector }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $.selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The rule that lets traces out. */}}
{{- define "paceline.tracingEgress" -}}
{{- with .Values.tracing.endpoint -}}
{{- $port := regexFind ":[0-9]+" (regexReplaceAll "^https?://([^/]*).*" . "${1}") | trimPrefix ":" | default (hasPrefix "https" . | ternary "443" "80") -}}
- to:
    {{- toYaml ($.Values.networkPolicy.collectors | default (list (dict "namespaceSelector" (dict)) (dict "ipBlock" (dict "cidr" "0.0.0.0/0")) (dict "ipBlock" (dict "cidr" "::/0")))) | nindent 4 }}
  ports: [{port: {{ $port }}}]
{{- end -}}
{{- end -}}

{{/* An entry of .Values.models with its defaults: (dict "root" $ "model" M), as JSON. */}}
{{- define "paceline.model" -}}
{{- $m := mergeOverwrite (deepCopy .root.Values.modelDefaults) .model -}}
{{- $at := printf "models[%s]" $m.name -}}
{{- $ranks := mul $m.parallelism.tensor $m.parallelism.pipeline -}}
{{- if mod $ranks $m.parallelism.nodes -}}
{{- fail (printf "%s.parallelism: tensor x pipeline (%d) does not divide by nodes (%d)" $at $ranks ($m.parallelism.nodes | int)) -}}
{{- end -}}
{{- if and $m.source.path (not $m.storage.existingClaim) -}}
{{- fail (printf "%s.source.path: needs storage.existingClaim, the claim that holds the file" $at) -}}
{{- end -}}
{{- if and $m.storage.existingClaim (not $m.source.path) -}}
{{- fail (printf "%s.storage.existingClaim: needs source.path, the file in it" $at) -}}
{{- end -}}
{{- if and $m.storage.persistent (or $m.storage.existingClaim (gt ($m.parallelism.nodes | int) 1)) -}}
{{- fail (printf "%s.storage.persistent: neither with storage.existingClaim nor with parallelism.nodes" $at) -}}
{{- end -}}
{{- if $m.autoscaling.enabled -}}
{{- if not .root.Values.vllmMetrics -}}
{{- fail (printf "%s.autoscaling: needs vllmMetrics" $at) -}}
{{- end -}}
{{- if and $m.autoscaling.queuedTokens (gt (len .root.Values.models) 1) -}}
{{- fail (printf "%s.autoscaling.queuedTokens: the routers' queue is that of all models, and there are several" $at) -}}
{{- end -}}
{{- if gt ($m.autoscaling.minReplicas | int) ($m.autoscaling.maxReplicas | int) -}}
{{- fail (printf "%s.autoscaling.minReplicas: more than maxReplicas" $at) -}}
{{- end -}}
{{- end -}}
{{- if and (eq (toString $m.rollout.maxSurge) "0") (eq (toString $m.rollout.maxUnavailable) "0") -}}
{{- fail (printf "%s.rollout: maxSurge and maxUnavailable are both 0" $at) -}}
{{- end -}}
{{- $_ := set $m "fullname" (printf "%s-%s" (include "paceline.fullname" .root) $m.name) -}}
{{- $_ := set $m "servedName" ($m.servedName | default $m.name) -}}
{{- $_ := set $m "ranks" ($ranks | int) -}}
{{- if $m.source.path -}}
{{- $_ := set $m "file" $m.source.path -}}
{{- else if $m.source.hf -}}
{{- $parts := regexSplit "/" (trimPrefix "hf://" $m.source.hf) 3 -}}
{{- $repo := regexSplit "@" (index $parts 1) 2 -}}
{{- $revision := "main" -}}
{{- if gt (len $repo) 1 }}{{ $revision = index $repo 1 }}{{ end -}}
{{- $_ := set $m "url" (printf "%s/%s/%s/resolve/%s/%s" .root.Values.downloader.hfEndpoint (index $parts 0) (index $repo 0) $revision (index $parts 2)) -}}
{{- $_ := set $m "file" (base $m.url) -}}
{{- else -}}
{{- $_ := set $m "url" $m.source.url -}}
{{- $_ := set $m "file" (base (index (regexSplit "[?#]" $m.url 2) 0)) -}}
{{- end -}}
{{- toJson $m -}}
{{- end -}}

{{- define "paceline.modelSelector" -}}
{{ include "paceline.selector" .root }}
app.kubernetes.io/component: worker
paceline.dev/model: {{ .m.name }}
{{- end -}}
