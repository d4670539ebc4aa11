%%% @private
%%% @doc The configuration of the application: its keys, their valid values, and its form as the
%%% TOML file of the gateway program.
%%%
%%% An unknown key causes a warning that names the known key that was probably meant. An invalid
%%% value causes an error that names its key, as in `channels.esdb_channel_events.priority'. The
%%% gateway program applies the same rules to its file (native/gater-node/src/config).
%%% @end
-module(esdb_gater_config).

-include_lib("kernel/include/logger.hrl").

-export([check/1, check_retry/1, load/0, environment/0, use/1, current/0, warn/1, describe/1,
         default_channels/0,
         channels/1, to_toml/1]).
-export([capability_mode/0, set_capability_mode/1, effective_capability_mode/1]).

-export_type([problem/0, warning/0, channel/0, capability_mode/0]).

-type problem() :: {bad_config, Key :: string(), Value :: term(), Expected :: string()}.
-type warning() :: {unknown_key, Key :: string(), Nearest :: string() | none}
                 | {overridden, Key :: string(), By :: string()}
                 | {without_roots, Key :: string()}.
-type capability_mode() :: disabled | optional | required.
%% `disabled': capability tokens are ignored; `optional': they are verified if present; `required':
%% they are needed.
-type channel() :: #{priority := critical | high | normal | low,
                     max_rate := pos_integer() | infinity,
                     hmac := required | optional,
                     replay_last := boolean()}.
%% The policy of a channel; `max_rate' is in messages per second and topic.

%% The replacement for a secret, which must not appear in a log or a crash report.
-define(REDACTED, '...').
-define(CURRENT, {?MODULE, current}).

%% The longest time of a timer of the BEAM, in milliseconds.
-define(MAX_MS, 16#ffffffff).
%% The greatest number that a value may be.
-define(MAX_NUMBER, 16#ffffffff).
%% The longest time in seconds, which is a year.
-define(MAX_SECONDS, 366 * 24 * 60 * 60).
-define(MAX_CHANNELS, 1000).
-define(MAX_NAME, 255).

%% The names of processes of OTP and of this application. The names of gateway processes begin with
%% `esdb_gater_'.
-define(TAKEN, [application_controller, auth, code_server, erl_epmd, erl_prim_loader,
                erl_signal_server, error_logger, erts_code_purger, esdb_channel_sup,
                file_server_2, global_group, global_group_check, global_name_server, inet_db, init,
                kernel_refc, kernel_safe_sup, kernel_sup, logger, logger_handler_watcher,
                logger_proxy, logger_std_h_default, logger_sup, net_kernel, net_sup, rex,
                socket_registry, standard_error, standard_error_sup, undefined, user, user_drv]).

%% @doc Returns the environment of this application, even before the application is loaded.
-spec environment() -> [{atom(), term()}].
environment() ->
    _ = case application:get_key(erl_esdb_gater, vsn) of
            {ok, _} -> ok;
            %% The functions also work where the application does not exist.
            undefined -> application:load(erl_esdb_gater)
        end,
    application:get_all_env(erl_esdb_gater).

%% @doc Checks the environment of this application, and logs a warning for each unknown key.
-spec load() -> {ok, map()} | {error, problem()}.
load() ->
    case {os:getenv("ESDB_GATER_SECRET"), check(environment())} of
        {"", _} ->
            {error, {bad_config, "security.hmac_secret", ?REDACTED,
                     "not empty (it comes from ESDB_GATER_SECRET)"}};
        {_, {ok, Config, Warnings}} ->
            lists:foreach(fun warn/1, Warnings),
            {ok, Config};
        {_, {error, _} = Error} ->
            Error
    end.

%% @doc Stores a checked configuration, without the secret, for {@link current/0}.
-spec use(map()) -> ok.
use(Config) ->
    Public = case Config of
                 #{security := Security} -> Config#{security := maps:remove(hmac_secret, Security)};
                 _ -> Config
             end,
    persistent_term:put(?CURRENT, Public).

%% @doc Returns the configuration with which the application was started. It is not part of any
%% process state or child specification, which reports would show.
-spec current() -> map().
current() ->
    persistent_term:get(?CURRENT, #{}).

%% @doc Logs a warning.
-spec warn(warning()) -> ok.
warn({unknown_key, Key, none}) ->
    ?LOG_WARNING("erl_esdb_gater: unknown configuration key ~ts", [Key],
                 #{application => erl_esdb_gater});
warn({unknown_key, Key, Nearest}) ->
    ?LOG_WARNING("erl_esdb_gater: unknown configuration key ~ts; did you mean ~ts?",
                 [Key, Nearest], #{application => erl_esdb_gater});
warn({without_roots, Key}) ->
    ?LOG_WARNING("erl_esdb_gater: configuration key ~ts has no effect on the gateway: "
                 "capabilities.roots names nobody who may grant", [Key], #{application => erl_esdb_gater});
warn({overridden, Key, By}) ->
    ?LOG_WARNING("erl_esdb_gater: configuration key ~ts has no effect: ~ts is set as well",
                 [Key, By], #{application => erl_esdb_gater}).

%% @doc Returns the description of a problem.
-spec describe(problem()) -> string().
describe({bad_config, Key, Value, Expected}) ->
    lists:flatten(io_lib:format("erl_esdb_gater: configuration key ~ts is ~0tp, but must be ~ts",
                                [Key, Value, Expected])).

%% @doc Checks an environment. Returns nested maps of the known keys with their values; keys that
%% are not set are missing. The flat key `hmac_secret' of the original library is returned as
%% `security.hmac_secret'.
-spec check([{atom(), term()}]) -> {ok, map(), [warning()]} | {error, problem()}.
check(Env) ->
    try
        {Config, Warnings} = section("", keys(), Env),
        ok = check_channel_names(maps:get(channels, Config, #{})),
        ok = check_together("retry.", maps:get(retry, Config, #{})),
        ok = check_roots(maps:get(capabilities, Config, #{})),
        {Nested, More} = flat_secret(Config),
        {ok, Nested, Warnings ++ More ++ without_roots(Nested)}
    catch
        throw:{bad_config, _, _, _} = Problem -> {error, Problem}
    end.

%% @doc Checks retry values that do not come from the environment. An unknown key is an error here.
-spec check_retry(map()) -> ok | {error, problem() | warning()}.
check_retry(Values) ->
    try
        case section("", retry_keys(), Values) of
            {Retry, []} -> check_together("", Retry);
            {_, [Unknown | _]} -> {error, Unknown}
        end
    catch
        throw:{bad_config, _, _, _} = Problem -> {error, Problem}
    end.

%% Name => {section, Keys} | {each, Keys} (the user chooses the names) | {value, Check, Expected}.
keys() ->
    #{gateways => value(fun gateways/1, "a list of node names"),
      gateway_timeout_ms => value(fun(Ms) -> whole(Ms, 100, ?MAX_MS) end,
                                  "milliseconds, a whole number from 100 to 4294967295"),
      registration => one_of([acknowledged, eventual]),
      publish => one_of([windowed, confirmed]),
      cluster => {section, #{ra_cluster_name => value(fun is_name/1, "an atom that is not empty")}},
      retry => {section, retry_keys()},
      channels => {each, channel_keys()},
      security => {section, security_keys()},
      hmac_secret => secret_key(),
      capabilities => {section, #{mode => capability_mode_key(), roots => dids_key(),
                                  audience => dids_key()}},
      capability_mode => capability_mode_key(),
      tune_peers => value(fun is_boolean/1, "true or false"),
      lineage_scopes => value(fun is_boolean/1, "true or false"),
      telemetry_handlers => value(fun telemetry_handlers/1, "a list that may hold logger and opentelemetry"),
      program => value(fun is_text/1, "the path of the program esdb-gater"),
      data_dir => value(fun is_text/1, "the path of a folder"),
      %% The runtime system itself sets these keys.
      included_applications => value(fun is_list/1, "a list of applications")}.

retry_keys() ->
    Milliseconds = value(fun(Ms) -> whole(Ms, 0, ?MAX_MS) end,
                         "milliseconds, a whole number from 0 to 4294967295"),
    #{base_delay_ms => Milliseconds,
      max_delay_ms => Milliseconds,
      max_attempts => value(fun number/1, "a whole number from 1 to 4294967295"),
      max_retries => value(fun(N) -> whole(N, 0, ?MAX_NUMBER - 1) end,
                           "a whole number from 0 to 4294967294"),
      ambiguous => one_of([retry, return]),
      deadline_ms => value(fun(Ms) -> Ms =:= infinity orelse whole(Ms, 1, ?MAX_MS) end,
                           "milliseconds, a whole number from 1 to 4294967295, or infinity"),
      prefer => one_of([any, local])}.

channel_keys() ->
    #{priority => one_of([critical, high, normal, low]),
      max_rate => value(fun(R) -> R =:= infinity orelse number(R) end,
                        "messages per second, a whole number from 1 to 4294967295, or infinity"),
      hmac => one_of([required, optional]),
      replay_last => value(fun is_boolean/1, "true or false")}.

security_keys() ->
    #{hmac_secret => secret_key(),
      message_ttl_seconds => value(fun(S) -> whole(S, 1, ?MAX_SECONDS) end,
                                   "seconds, a whole number from 1 to 31622400 (a year)")}.

capability_mode_key() -> one_of([disabled, optional, required]).

dids_key() -> value(fun dids/1, "a list of did:key names of Ed25519 keys").

secret_key() -> value(fun secret/1, "a binary or string that is not empty").

one_of(Values) ->
    {First, [Last]} = lists:split(length(Values) - 1, [atom_to_list(V) || V <- Values]),
    value(fun(Value) -> lists:member(Value, Values) end,
          lists:append(lists:join(", ", First)) ++ " or " ++ Last).

value(Check, Expected) -> {value, Check, Expected}.

section(Path, Keys, Options) when is_map(Options) ->
    section(Path, Keys, maps:to_list(Options));
section(Path, Keys, Options) when is_list(Options) ->
    lists:foldl(fun(Option, Acc) -> option(Path, Keys, Option, Acc) end, {#{}, []}, Options);
section(Path, _Keys, Other) ->
    throw({bad_config, Path, Other, "a list of {Key, Value}"}).

option(Path, Keys, {Key, Value}, {Config, Warnings}) when is_atom(Key) ->
    Full = join(Path, Key),
    case Keys of
        #{Key := {section, Inner}} ->
            {Sub, More} = section(Full, Inner, Value),
            {Config#{Key => Sub}, Warnings ++ More};
        #{Key := {each, Inner}} ->
            {Sub, More} = each(Full, Inner, Value),
            {Config#{Key => Sub}, Warnings ++ More};
        #{Key := {value, Check, Expected}} ->
            case Check(Value) of
                true -> {Config#{Key => Value}, Warnings};
                false -> throw({bad_config, Full, shown(Key, Value), Expected})
            end;
        #{} ->
            {Config, Warnings ++ [{unknown_key, Full, nearest(Path, Full, Keys)}]}
    end;
option(Path, _Keys, Other, _Acc) ->
    throw({bad_config, root(Path), Other, "a list of {Key, Value}"}).

each(Path, Keys, Options) when is_map(Options) ->
    each(Path, Keys, maps:to_list(Options));
each(Path, Keys, Options) when is_list(Options) ->
    lists:foldl(
      fun({Name, Values}, {Config, Warnings}) when is_atom(Name) ->
              {Sub, More} = section(join(Path, Name), Keys, Values),
              {Config#{Name => Sub}, Warnings ++ More};
         (Other, _) ->
              throw({bad_config, Path, Other, "a list of {Name, [{Key, Value}]}"})
      end, {#{}, []}, Options);
each(Path, _Keys, Other) ->
    throw({bad_config, Path, Other, "a list of {Name, [{Key, Value}]}"}).

%% The nearest key of a channel is searched for among the keys of channels, and any other key among
%% all keys.
nearest("channels." ++ _ = Path, Full, Keys) ->
    nearest_of(Full, [join(Path, Key) || Key <- maps:keys(Keys)]);
nearest(_Path, Full, Keys) ->
    case is_map_key(channels, Keys) orelse string:find(Full, ".") =/= nomatch of
        true -> nearest_of(Full, paths("", maps:remove(included_applications, keys())));
        false -> nearest_of(Full, paths("", Keys))
    end.

nearest_of(Full, Known) ->
    case esdb_gater_nearest:find(Full, Known) of
        {ok, Nearest} -> Nearest;
        none -> none
    end.

paths(Path, Keys) ->
    lists:flatmap(fun({Key, {section, Inner}}) -> [join(Path, Key) | paths(join(Path, Key), Inner)];
                     ({Key, _}) -> [join(Path, Key)]
                  end, lists:sort(maps:to_list(Keys))).

%% The names must be those of channels that a gateway can serve, and must be free for processes of a
%% BEAM.
check_channel_names(Channels) ->
    lists:foreach(fun(Name) ->
                      Text = atom_to_list(Name),
                      case {Text, length(Text) =< ?MAX_NAME, is_taken(Name, Text)} of
                          {[_ | _], true, false} -> ok;
                          {[_ | _], true, true} ->
                              bad_channel(Name, "another name: this one is taken");
                          _ -> bad_channel(Name, "a name of 1 to 255 characters")
                      end
                  end, lists:sort(maps:keys(Channels))),
    All = maps:size(maps:merge(default_channels(), Channels)),
    case All =< ?MAX_CHANNELS of
        true -> ok;
        false -> throw({bad_config, "channels", All, "no more than 1000 channels in all"})
    end.

is_taken(Name, Text) ->
    lists:member(Name, ?TAKEN) orelse lists:prefix("esdb_gater_", Text)
        orelse lists:prefix("erl_esdb_gater", Text).

-spec bad_channel(atom(), string()) -> no_return().
bad_channel(Name, Expected) ->
    throw({bad_config, join("channels", Name), Name, Expected}).

%% Checks conditions that involve two values.
check_together(Prefix, Retry) ->
    Base = maps:get(base_delay_ms, Retry, 100),
    Attempts = maps:get(max_attempts, Retry, none),
    case {maps:get(max_delay_ms, Retry, 5000), maps:get(max_retries, Retry, none)} of
        {Max, _} when Max < Base ->
            throw({bad_config, Prefix ++ "max_delay_ms", Max,
                   lists:concat(["at least ", Prefix, "base_delay_ms, which is ", Base])});
        {_, Retries} when is_integer(Retries), is_integer(Attempts), Retries + 1 =/= Attempts ->
            throw({bad_config, Prefix ++ "max_retries", Retries,
                   lists:concat(["one less than ", Prefix, "max_attempts, which is ", Attempts])});
        _ ->
            ok
    end.

%% Without a root key, every token would be refused.
check_roots(Capabilities) ->
    case {maps:get(mode, Capabilities, disabled), maps:get(roots, Capabilities, [])} of
        {Mode, []} when Mode =/= disabled ->
            throw({bad_config, "capabilities.roots", [],
                   lists:concat(["a list of at least one did:key, as capabilities.mode is ", Mode])});
        _ ->
            ok
    end.

without_roots(#{capability_mode := Mode} = Config) when Mode =/= disabled ->
    case maps:get(capabilities, Config, #{}) of
        #{roots := [_ | _]} -> [];
        _ -> [{without_roots, "capability_mode"}]
    end;
without_roots(_Config) ->
    [].

flat_secret(#{hmac_secret := Secret} = Config) ->
    Security = maps:get(security, Config, #{}),
    Nested = maps:remove(hmac_secret, Config),
    case Security of
        #{hmac_secret := _} -> {Nested, [{overridden, "hmac_secret", "security.hmac_secret"}]};
        _ -> {Nested#{security => Security#{hmac_secret => Secret}}, []}
    end;
flat_secret(Config) ->
    {Config, []}.

join("", Key) -> atom_to_list(Key);
join(Path, Key) -> Path ++ "." ++ atom_to_list(Key).

root("") -> "erl_esdb_gater";
root(Path) -> Path.

shown(hmac_secret, _) -> ?REDACTED;
shown(_, Value) -> Value.

gateways(List) ->
    is_list(List) andalso lists:all(fun is_node_name/1, List).

%% OTP accepts node names of letters, digits, `_' and `-', then `@', then a host.
is_node_name(Name) when is_atom(Name) ->
    case string:split(atom_to_list(Name), "@") of
        [[_ | _] = Alive, [_ | _] = Host] ->
            lists:all(fun is_name_character/1, Alive) andalso lists:all(fun is_host_character/1, Host);
        _ ->
            false
    end;
is_node_name(_) ->
    false.

is_name_character(C) ->
    C >= $a andalso C =< $z orelse C >= $A andalso C =< $Z orelse C >= $0 andalso C =< $9
        orelse C =:= $_ orelse C =:= $-.

is_host_character(C) ->
    C > 32 andalso C < 127 andalso C =/= $@ andalso C =/= $'.

dids(List) ->
    is_list(List) andalso lists:all(fun esdb_identity:is_valid_did/1, List).

telemetry_handlers(List) ->
    is_list(List) andalso lists:all(fun(H) -> H =:= logger orelse H =:= opentelemetry end, List).

secret(S) when is_binary(S) -> S =/= <<>>;
secret([_ | _] = S) -> is_text(S);
secret(_) -> false.

%% A path must not contain NUL, at which the operating system would end it.
is_text(B) when is_binary(B) ->
    case unicode:characters_to_list(B) of
        Text when is_list(Text) -> is_text(Text);
        _ -> false
    end;
is_text([_ | _] = S) -> io_lib:char_list(S) andalso not lists:member(0, S);
is_text(_) -> false.

is_name(Name) -> is_atom(Name) andalso Name =/= ''.

whole(N, Least, Most) -> is_integer(N) andalso N >= Least andalso N =< Most.

number(N) -> whole(N, 1, ?MAX_NUMBER).

%% @doc Returns the mode of this node: `capabilities.mode', or `capability_mode' as in the original
%% library.
-spec capability_mode() -> capability_mode().
capability_mode() ->
    Flat = application:get_env(erl_esdb_gater, capability_mode, disabled),
    Capabilities = application:get_env(erl_esdb_gater, capabilities, []),
    case maps:find(mode, to_map(Capabilities)) of
        {ok, Mode} -> Mode;
        error -> Flat
    end.

to_map(Options) when is_map(Options) -> Options;
to_map(Options) -> maps:from_list(Options).

%% @doc Changes the mode of this node for the channels that it hosts itself. A gateway has the mode
%% of its own configuration.
-spec set_capability_mode(capability_mode()) -> ok.
set_capability_mode(Mode) when Mode =:= disabled; Mode =:= optional; Mode =:= required ->
    Capabilities = to_map(application:get_env(erl_esdb_gater, capabilities, [])),
    ok = application:set_env(erl_esdb_gater, capabilities, maps:remove(mode, Capabilities)),
    application:set_env(erl_esdb_gater, capability_mode, Mode).

%% @doc Returns the effective mode of a channel of this node, which is `required' if the channel
%% requires tokens, and otherwise the mode of the node.
-spec effective_capability_mode(Requires :: boolean()) -> capability_mode().
effective_capability_mode(true) -> required;
effective_capability_mode(false) -> capability_mode().

%% @doc Returns the channels that exist without configuration.
-spec default_channels() -> #{atom() => channel()}.
default_channels() ->
    Channel = fun(Priority, MaxRate, Hmac) ->
                  #{priority => Priority, max_rate => MaxRate, hmac => Hmac, replay_last => false}
              end,
    Health = Channel(high, 100, optional),
    #{esdb_channel_alerts => Channel(critical, infinity, required),
      esdb_channel_security => Channel(critical, infinity, required),
      esdb_channel_events => Channel(high, infinity, optional),
      esdb_channel_health => Health#{replay_last := true},
      esdb_channel_system => Channel(normal, infinity, optional),
      esdb_channel_metrics => Channel(normal, 10000, optional),
      esdb_channel_audit => Channel(normal, infinity, optional),
      esdb_channel_lifecycle => Channel(normal, infinity, optional),
      esdb_channel_logging => Channel(low, 1000, optional),
      esdb_channel_diagnostics => Channel(low, 100, optional)}.

%% @doc Returns the channels of a checked configuration: the defaults, with changed rules, and the
%% user's own.
-spec channels(map()) -> #{atom() => channel()}.
channels(Config) ->
    Own = maps:get(channels, Config, #{}),
    Blank = #{priority => normal, max_rate => infinity, hmac => optional, replay_last => false},
    maps:fold(fun(Name, Changes, Acc) ->
                  Acc#{Name => maps:merge(maps:get(Name, Acc, Blank), Changes)}
              end, default_channels(), Own).

%% @doc Returns a checked configuration as the file of the gateway program. The secret is not part
%% of it, since the program receives it separately.
-spec to_toml(map()) -> iodata().
to_toml(Config) ->
    [pairs_toml(maps:with([tune_peers], Config)),
     capabilities_toml(Config),
     retry_toml(maps:get(retry, Config, #{})),
     security_toml(maps:with([message_ttl_seconds], maps:get(security, Config, #{}))),
     [channel_toml(Name, Values)
      || {Name, Values} <- lists:sort(maps:to_list(maps:get(channels, Config, #{})))]].

capabilities_toml(Config) ->
    case maps:get(capabilities, Config, #{}) of
        #{roots := [_ | _]} = Capabilities ->
            Flat = maps:get(capability_mode, Config, disabled),
            ["[capabilities]\n" | pairs_toml(maps:merge(#{mode => Flat}, Capabilities))];
        _ ->
            []
    end.

retry_toml(Retry) when map_size(Retry) =:= 0 -> [];
retry_toml(Retry) -> ["[retry]\n" | pairs_toml(Retry)].

security_toml(Security) when map_size(Security) =:= 0 -> [];
security_toml(Security) -> ["[security]\n" | pairs_toml(Security)].

channel_toml(Name, Values) ->
    ["[channels.", string_toml(atom_to_binary(Name)), "]\n" | pairs_toml(Values)].

pairs_toml(Map) ->
    [[atom_to_binary(Key), " = ", value_toml(Value), "\n"]
     || {Key, Value} <- lists:sort(maps:to_list(Map))].

value_toml(N) when is_integer(N) -> integer_to_binary(N);
value_toml(B) when is_boolean(B) -> atom_to_binary(B);
value_toml(L) when is_list(L) -> [$[, lists:join($,, [string_toml(Text) || Text <- L]), $]];
value_toml(A) when is_atom(A) -> string_toml(atom_to_binary(A)).

string_toml(Text) ->
    [$", [escaped(C) || C <- unicode:characters_to_list(Text)], $"].

escaped($") -> "\\\"";
escaped($\\) -> "\\\\";
escaped(C) when C < 32; C =:= 127 -> io_lib:format("\\u~4.16.0B", [C]);
escaped(C) -> unicode:characters_to_binary([C]).
