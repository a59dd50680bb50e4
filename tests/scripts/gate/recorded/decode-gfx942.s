; Triton's assembly for gfx942: the same product; its main loop, and its metadata
	v_add_u32_e32 v10, 0x80, v10
	v_add_u32_e32 v12, 0x100, v11
	s_branch .LBB0_16
.LBB0_15:
	.loc	1 0 5 is_stmt 0
	s_or_b64 exec, exec, s[2:3]
.Ltmp27:
	.loc	1 8 11 is_stmt 1
	s_waitcnt lgkmcnt(3)
	v_lshlrev_b16_sdwa v29, v27, v16 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:WORD_1
	v_lshlrev_b16_sdwa v13, v26, v16 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:BYTE_3
	v_and_b32_e32 v29, 0xf0, v29
	v_or_b32_sdwa v13, v29, v13 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:DWORD
	v_lshlrev_b16_e32 v29, 4, v16
	v_and_b32_e32 v29, 0xfffff0f0, v29
	v_or_b32_sdwa v38, v13, v29 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:WORD_0
	v_lshlrev_b16_sdwa v29, v27, v17 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:WORD_1
	v_lshlrev_b16_sdwa v13, v26, v17 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:BYTE_3
	v_and_b32_e32 v29, 0xf0, v29
	v_or_b32_sdwa v13, v29, v13 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:DWORD
	v_lshlrev_b16_e32 v29, 4, v17
	v_and_b32_e32 v29, 0xfffff0f0, v29
	v_or_b32_sdwa v39, v13, v29 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:WORD_0
	s_waitcnt lgkmcnt(2)
	v_lshlrev_b16_sdwa v29, v27, v14 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:WORD_1
	v_lshlrev_b16_sdwa v13, v26, v14 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:BYTE_3
	v_and_b32_e32 v29, 0xf0, v29
	v_or_b32_sdwa v13, v29, v13 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:DWORD
	v_lshlrev_b16_e32 v29, 4, v14
	v_and_b32_e32 v29, 0xfffff0f0, v29
	v_or_b32_sdwa v40, v13, v29 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:WORD_0
	v_lshlrev_b16_sdwa v29, v27, v15 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:WORD_1
.Ltmp28:
	.loc	1 52 18
	ds_read_b64 v[42:43], v24 offset:5120
.Ltmp29:
	.loc	1 8 11
	v_lshlrev_b16_sdwa v13, v26, v15 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:BYTE_3
	v_and_b32_e32 v29, 0xf0, v29
.Ltmp30:
	.loc	1 62 19
	s_waitcnt lgkmcnt(2)
	v_mfma_i32_16x16x32_i8 v[2:5], v[36:37], v[38:39], v[2:5]
.Ltmp31:
	.loc	1 8 11
	v_or_b32_sdwa v13, v29, v13 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:DWORD
	v_lshlrev_b16_e32 v29, 4, v15
	v_and_b32_e32 v29, 0xfffff0f0, v29
	v_or_b32_sdwa v41, v13, v29 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:WORD_0
	.loc	1 9 11
	v_and_b32_e32 v16, 0xf0f0f0f0, v16
	v_and_b32_e32 v17, 0xf0f0f0f0, v17
.Ltmp32:
	.loc	1 62 19
	s_waitcnt lgkmcnt(1)
	v_mfma_i32_16x16x32_i8 v[2:5], v[34:35], v[40:41], v[2:5]
	.loc	1 52 18
	ds_read_b64 v[34:35], v25 offset:5120
.Ltmp33:
	.loc	1 9 11
	v_and_b32_e32 v14, 0xf0f0f0f0, v14
	v_and_b32_e32 v15, 0xf0f0f0f0, v15
.Ltmp34:
	.loc	1 63 19
	s_waitcnt lgkmcnt(1)
	v_mfma_i32_16x16x32_i8 v[2:5], v[42:43], v[16:17], v[2:5]
	.loc	1 47 5
	s_add_i32 s7, s7, 1
	v_add_u32_e32 v10, 64, v10
	s_cmp_lt_i32 s7, s6
	.loc	1 63 19
	s_waitcnt lgkmcnt(0)
	v_mfma_i32_16x16x32_i8 v[2:5], v[34:35], v[14:15], v[2:5]
	.loc	1 47 5
	v_add_u32_e32 v12, 0x80, v12
	.loc	1 50 17
	s_barrier
	s_waitcnt vmcnt(0)
	ds_write_b64 v19, v[30:31]
	ds_write_b64 v20, v[32:33]
	.loc	1 0 0 is_stmt 0
	ds_write2st64_b32 v21, v28, v11 offset0:16 offset1:20
	.loc	1 47 5 is_stmt 1
	s_cbranch_scc0 .LBB0_23
.LBB0_16:
	.loc	1 0 5 is_stmt 0
	v_mov_b32_e32 v28, 0
	v_mov_b32_e32 v30, 0
	v_mov_b32_e32 v31, 0
	v_mov_b32_e32 v32, 0
	v_mov_b32_e32 v33, 0
	.loc	1 50 17 is_stmt 1
	s_and_saveexec_b64 s[2:3], vcc
	s_cbranch_execz .LBB0_18

	.loc	1 0 17 is_stmt 0
	v_ashrrev_i32_e32 v11, 31, v10
	v_lshl_add_u64 v[14:15], v[6:7], 0, v[10:11]
	.loc	1 50 17
	global_load_dwordx4 v[30:33], v[14:15], off
.LBB0_18:
	.loc	1 0 17
	s_or_b64 exec, exec, s[2:3]
.Ltmp35:
	.loc	1 9 11 is_stmt 1
	s_waitcnt lgkmcnt(0)
	s_barrier
	ds_read_b64 v[16:17], v22
.Ltmp36:
	.loc	1 51 96
	ds_read_b64 v[14:15], v23
	v_cmp_gt_i32_e64 s[2:3], s4, v12
	.loc	1 51 77 is_stmt 0
	s_and_b64 s[18:19], s[0:1], s[2:3]
	v_ashrrev_i32_e32 v13, 31, v12
	.loc	1 51 18
	s_and_saveexec_b64 s[2:3], s[18:19]
	s_cbranch_execz .LBB0_20

	.loc	1 0 18
	v_lshl_add_u64 v[28:29], v[8:9], 0, v[12:13]
	.loc	1 51 18
	global_load_dword v28, v[28:29], off
.LBB0_20:
	.loc	1 0 18
	s_or_b64 exec, exec, s[2:3]
	.loc	1 51 18
	ds_read_b64 v[36:37], v24 offset:4096
	ds_read_b64 v[34:35], v25 offset:4096
	.loc	1 52 100 is_stmt 1
	v_add_u32_e32 v11, 64, v12
	v_cmp_gt_i32_e64 s[2:3], s4, v11
	.loc	1 52 81 is_stmt 0
	s_and_b64 s[18:19], s[0:1], s[2:3]
	v_mov_b32_e32 v11, 0
	.loc	1 52 18
	s_and_saveexec_b64 s[2:3], s[18:19]
	s_cbranch_execz .LBB0_15

	.loc	1 0 18
	v_lshl_add_u64 v[38:39], v[8:9], 0, v[12:13]
	.loc	1 52 18
	global_load_dword v11, v[38:39], off offset:64
	s_branch .LBB0_15
.LBB0_22:
	.loc	1 0 18
	v_mov_b32_e32 v5, 0
	v_mov_b32_e32 v4, v5
	v_mov_b32_e32 v3, v5
	v_mov_b32_e32 v2, v5
    .group_segment_fixed_size: 0
    .private_segment_fixed_size: 0
    .sgpr_spill_count: 0
    .vgpr_count:     44
    .vgpr_spill_count: 0
