%%% @private
%%% @doc The gateway program `esdb-gater': its location, and its start and control.
%%%
%%% The program is searched for under the configuration key `program', in the `priv' directory of
%%% the application and on the path. Its configuration, signing secret and cookie are written to its
%%% standard input, in frames, so they are in no file, no argument, no environment variable, and no
%%% state that a report could show. Without `data_dir' it keeps the registry in memory, so nothing
%%% has to be removed, however this node ends.
%%% @end
-module(esdb_gater_program).

-export([find/1, open/3, tell_cookie/1, stop/1, close/1]).

%% The kinds of frames that the program reads before it starts. The cookie may also be sent later.
-define(COOKIE, $K).
-define(SECRET, $S).
-define(CONFIGURATION, $C).
-define(QUIT, $Q).

%% Variables that would conflict with the configuration of the program.
-define(UNSET, ["ESDB_GATER_CONFIG", "ESDB_GATER_COOKIE", "ESDB_GATER_COOKIE_FILE",
                "ESDB_GATER_SECRET"]).
%% A registry in memory does not belong to any cluster.
-define(UNSET_ALONE, ["ESDB_GATER_DATA_DIR", "ESDB_GATER_CLUSTER", "ESDB_GATER_JOIN"]).

%% @doc Returns the location of the program, or an error with the location where it was expected.
-spec find(Config :: map()) -> {ok, file:name_all()} | {error, file:name_all()}.
find(#{program := Program}) ->
    case filelib:is_regular(Program) of
        true -> {ok, Program};
        false -> {error, Program}
    end;
find(_Config) ->
    Own = case code:priv_dir(erl_esdb_gater) of
              {error, bad_name} -> "priv/esdb-gater";
              Priv -> filename:join(Priv, "esdb-gater")
          end,
    case filelib:is_regular(Own) of
        true ->
            {ok, Own};
        false ->
            case os:find_executable("esdb-gater") of
                false -> {error, Own};
                Found -> {ok, Found}
            end
    end.

%% @doc Starts the program and sends it everything that it needs. Its frames arrive as `{Port,
%% {data, Frame}}': `R' and the ready line, `E' and the reason of its end, or a frame for {@link
%% esdb_gater_pipe}.
-spec open(file:name_all(), piped | {Name :: string(), Address :: string()}, Config :: map()) ->
          {ok, port()} | {error, term()}.
open(Program, Reach, Config) ->
    Options = [{args, ["start", "--hosted" | reach(Reach) ++ storage(Reach, Config)]},
               {env, environment(Reach, Config)}, {packet, 4}, binary, exit_status, use_stdio, hide],
    try open_port({spawn_executable, Program}, Options) of
        Port ->
            ok = tell_cookie(Port),
            ok = tell(Port, [?SECRET, esdb_pubsub_security:get_secret()]),
            ok = tell(Port, [?CONFIGURATION | esdb_gater_config:to_toml(Config)]),
            {ok, Port}
    catch
        error:Reason -> {error, Reason}
    end.

reach(piped) ->
    ["--piped", "--name", atom_to_list(esdb_gater_transport:piped_gateway())];
reach({Name, Address}) ->
    ["--name", Name, "--listen", Address ++ ":0"].

%% The processes of a node without a name have the same pids after a restart, so earlier
%% registrations would be wrong.
storage(Reach, Config) ->
    case data_dir(Reach, Config) of
        none -> ["--in-memory"];
        {ok, Folder} -> ["--data-dir", Folder]
    end.

data_dir(piped, _Config) -> none;
data_dir(_Reach, #{data_dir := Folder}) -> {ok, Folder};
data_dir(_Reach, _Config) -> none.

environment(Reach, Config) ->
    Level = case os:getenv("ESDB_GATER_LOG") of
                false -> [{"ESDB_GATER_LOG", "warn,openraft=error"}];
                _ -> []
            end,
    Unset = case data_dir(Reach, Config) of
                none -> ?UNSET ++ ?UNSET_ALONE;
                {ok, _} -> ?UNSET
            end,
    Level ++ [{Name, false} || Name <- Unset].

%% @doc Sends the cookie of this node to a program.
-spec tell_cookie(port()) -> ok.
tell_cookie(Port) ->
    %% These are the bytes that nodes use in the handshake.
    tell(Port, [?COOKIE | atom_to_list(erlang:get_cookie())]).

%% @doc Tells a program to end when the queued messages are written.
-spec stop(port()) -> ok.
stop(Port) ->
    tell(Port, [?QUIT]).

%% @doc Closes the port of a program, which ends the program as well.
-spec close(port()) -> ok.
close(Port) ->
    try
        true = port_close(Port),
        ok
    catch
        error:badarg -> ok
    end.

%% A program that has ended reports it by its exit. The contents of the frame must not appear in an
%% error.
tell(Port, Frame) ->
    try
        true = port_command(Port, Frame),
        ok
    catch
        error:_ -> ok
    end.
