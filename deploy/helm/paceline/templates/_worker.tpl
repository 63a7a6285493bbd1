{{/* Labels and annotations of a worker's pod: (dict "root" $ "m" MODEL "leader" BOOL) */}}
{{- define "paceline.workerPodMetadata" -}}
labels:
  {{- include "paceline.podLabels" .root | nindent 2 }}
  app.kubernetes.io/component: worker
  paceline.dev/model: {{ .m.name }}
  # Routers look for these pods: rank 0 serves the worker plane.
  paceline.dev/leader: {{ .leader | quote }}
  {{- with .m.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .m.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The pod of a worker, or of one node of a worker: (dict "root" $ "m" MODEL "leader" BOOL) */}}
{{- define "paceline.workerPod" -}}
{{- $m := .m -}}
{{- $isMultiNode := gt ($m.parallelism.nodes | int) 1 -}}
{{ include "paceline.pod" .root }}
# The drain, and a moment to hand over what is left.
terminationGracePeriodSeconds: {{ add $m.drainSeconds 10 }}
{{- $selector := "" }}
{{- if not $isMultiNode }}{{ $selector = include "paceline.modelSelector" . }}{{ end }}
{{- include "paceline.scheduling" (dict "values" $m "selector" $selector) }}
{{- if $m.url }}
initContainers:
  - name: download
    image: {{ .root.Values.downloader.image }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [sh, -euc]
    args:
      - |
        {{- .root.Files.Get "files/download.sh" | trim | nindent 8 }}
    env:
      - {name: URL, value: {{ $m.url | quote }}}
      - {name: FILE, value: {{ printf "/models/%s" $m.file | quote }}}
      - {name: SHA256, value: {{ $m.source.sha256 | default "" | quote }}}
      - {name: TOKEN_FILE, value: {{ ternary "/etc/paceline/token/token" "" (not (empty $m.source.tokenSecret)) | quote }}}
    {{- include "paceline.containerSecurity" .root | nindent 4 }}
    resources:
      {{- toYaml .root.Values.downloader.resources | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models}
      {{- if $m.source.tokenSecret }}
      - {name: token, mountPath: /etc/paceline/token, readOnly: true}
      {{- end }}
{{- end }}
containers:
  - name: worker
    image: {{ include "paceline.workerImage" . }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args:
      - worker
      - --config=/etc/paceline/config/worker.yaml
      - "--model=/models/{{ $m.file }}"
      - "--served-model-name={{ $m.servedName }}"
      - "--host={{ .root.Values.router.listenAddress }}"
      - --port=50061
      - "--operator-host={{ .root.Values.router.listenAddress }}"
      - --operator-port=8002
      {{- with include "paceline.planeArgs" .root | trim }}{{ . | nindent 6 }}{{ end }}
      {{- if .root.Values.workerPlane.tls.enabled }}
      - --operator-tls
      {{- end }}
      {{- if gt ($m.ranks | int) 1 }}
      - --tensor-parallel-size={{ $m.parallelism.tensor }}
      - --pipeline-parallel-size={{ $m.parallelism.pipeline }}
      {{- end }}
      {{- if $isMultiNode }}
      # Which node this is, and where node 0 is, come from LWS_WORKER_INDEX and LWS_LEADER_ADDRESS.
      - --nnodes={{ $m.parallelism.nodes }}
      - --master-port=29500
      {{- end }}
      {{- if $m.gpu.count }}
      - --gpu-memory-utilization={{ $m.gpu.memoryUtilization }}
      {{- end }}
      - --drain-seconds={{ $m.drainSeconds }}
      {{- with $m.engine }}
      {{- if .threads }}
      - --threads={{ .threads }}
      {{- end }}
      {{- if .kvCacheMemory }}
      - --kv-cache-memory={{ .kvCacheMemory }}
      {{- end }}
      {{- if .maxModelLen }}
      - --max-model-len={{ .maxModelLen | int64 }}
      {{- end }}
      - --max-num-seqs={{ .maxNumSeqs | int64 }}
      - --max-num-batched-tokens={{ .maxNumBatchedTokens | int64 }}
      - --compute-dtype={{ .computeDtype }}
      - --kv-cache-dtype={{ .kvCacheDtype }}
      - --lease-ms={{ .leaseMs | int64 }}
      {{- if not .prefixCaching }}
      - --no-enable-prefix-caching
      {{- end }}
      {{- end }}
      {{- if not .root.Values.vllmMetrics }}
      - --no-vllm-metrics
      {{- end }}
      - --log-format={{ .root.Values.log.format }}
      {{- with .root.Values.tracing.endpoint }}
      - "--otlp-traces-endpoint={{ . }}"
      {{- end }}
    {{- with $m.extraEnv }}
    env:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if .leader }}
    ports:
      - {name: plane, containerPort: 50061}
      - {name: operator, containerPort: 8002}
    # Opens when the model is loaded.
    startupProbe:
      tcpSocket: {port: plane}
      periodSeconds: 5
      failureThreshold: {{ div (add $m.startupSeconds 4) 5 }}
    # The process answers. A worker of several ranks loads anew when it has lost one: as long as a start.
    livenessProbe:
      httpGet: {path: /health, port: operator{{ if .root.Values.workerPlane.tls.enabled }}, scheme: HTTPS{{ end }}}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: {{ gt ($m.ranks | int) 1 | ternary (div (add $m.startupSeconds 9) 10 | max 6) 6 }}
    # The engine has made progress within its lease.
    readinessProbe:
      httpGet: {path: /ready, port: operator{{ if .root.Values.workerPlane.tls.enabled }}, scheme: HTTPS{{ end }}}
      periodSeconds: 5
      timeoutSeconds: 3
      failureThreshold: 2
    {{- end }}
    {{- include "paceline.containerSecurity" .root | nindent 4 }}
    resources:
      {{- $resources := deepCopy $m.resources }}
      {{- if $m.gpu.count }}
      {{- $gpu := dict $m.gpu.resourceName ($m.gpu.count | int) }}
      {{- $resources = mergeOverwrite $resources (dict "requests" $gpu "limits" $gpu) }}
      {{- end }}
      {{- toYaml $resources | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models, readOnly: true}
      - {name: config, mountPath: /etc/paceline/config, readOnly: true}
      {{- with include "paceline.planeMounts" .root | trim }}{{ . | nindent 6 }}{{ end }}
      {{- if or (gt ($m.ranks | int) 1) $m.gpu.count }}
      - {name: shm, mountPath: /dev/shm}
      {{- end }}
{{- $hasMemory := or (gt ($m.ranks | int) 1) $m.gpu.count }}
volumes:
  - name: config
    configMap: {name: {{ include "paceline.fullname" .root }}-config, items: [{key: worker.yaml, path: worker.yaml}]}
  {{- with include "paceline.planeVolumes" .root | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if $m.storage.existingClaim }}
  - name: models
    persistentVolumeClaim: {claimName: {{ $m.storage.existingClaim }}, readOnly: true}
  {{- else if not $m.storage.persistent }}
  - name: models
    emptyDir: {sizeLimit: {{ $m.storage.size }}}
  {{- end }}
  {{- if $hasMemory }}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ $m.sharedMemory }}}
  {{- end }}
  {{- if $m.source.tokenSecret }}
  - name: token
    secret:
      secretName: {{ $m.source.tokenSecret }}
      items: [{key: token, path: token}]
      defaultMode: 0440
  {{- end }}
{{- end -}}
