%%% Records and macros of capability tokens. A token is modelled on UCAN: a principal, named by a
%%% `did:key', grants another what it may do with which resources, for a time.
-ifndef(ESDB_CAPABILITY_TYPES_HRL).
-define(ESDB_CAPABILITY_TYPES_HRL, true).

-define(ESDB_URI_SCHEME, <<"esdb://">>).

%% Seconds that a token is valid for.
-define(DEFAULT_TOKEN_TTL_SECS, 900).
-define(MAX_TOKEN_TTL_SECS, 86400).
-define(MIN_TOKEN_TTL_SECS, 60).

%% Parts of a `did:key': the multicodec of a public Ed25519 key, and the multibase of base58btc.
-define(MULTICODEC_ED25519_PUB, <<16#ed, 16#01>>).
-define(MULTIBASE_BASE58BTC, $z).
-define(DID_KEY_PREFIX, <<"did:key:">>).

-define(ACTION_STREAM_APPEND, <<"stream/append">>).
-define(ACTION_STREAM_READ, <<"stream/read">>).
-define(ACTION_STREAM_SUBSCRIBE, <<"stream/subscribe">>).
-define(ACTION_STREAM_DELETE, <<"stream/delete">>).
-define(ACTION_CHANNEL_PUBLISH, <<"channel/publish">>).
-define(ACTION_CHANNEL_SUBSCRIBE, <<"channel/subscribe">>).
-define(ACTION_SNAPSHOT_WRITE, <<"snapshot/write">>).
-define(ACTION_SNAPSHOT_READ, <<"snapshot/read">>).
-define(ACTION_SNAPSHOT_DELETE, <<"snapshot/delete">>).
-define(ACTION_SUBSCRIPTION_CREATE, <<"subscription/create">>).
-define(ACTION_SUBSCRIPTION_DELETE, <<"subscription/delete">>).
-define(ACTION_SUBSCRIPTION_LIST, <<"subscription/list">>).
-define(ACTION_ADMIN_ALL, <<"*">>).

%% Names of fields are those of the token's encoded form. Times are in Unix seconds.
-record(capability, {
    alg = <<"EdDSA">> :: binary(),
    typ = <<"UCAN">> :: binary(),
    %% Who grants, and to whom, as `did:key'.
    iss :: binary() | undefined,
    aud :: binary() | undefined,
    %% Not valid before, and not after.
    nbf :: integer() | undefined,
    exp :: integer() | undefined,
    iat :: integer() | undefined,
    nnc :: binary() | undefined,
    %% What is granted: `#{with => Resource, can => Action}'.
    att :: [#{with := binary(), can := binary()}] | undefined,
    fct = #{} :: map(),
    %% Tokens that this one is derived from.
    prf = [] :: [term()],
    sig :: binary() | undefined
}).

-record(identity, {
    did :: binary() | undefined,
    public_key :: binary() | undefined,
    private_key :: binary() | undefined
}).

-record(verification_result, {
    capability :: #capability{} | undefined,
    %% From the root to who issued the token.
    issuer_chain :: [binary()] | undefined,
    resource :: binary() | undefined,
    action :: binary() | undefined,
    verified_at :: integer() | undefined
}).

-endif.
